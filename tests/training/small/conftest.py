"""Nets of a test's size, and a shelf that holds pictures of chance, so that no test waits for the renderer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.training.small.code import LinearCode
from consisid_pack.consisid_core.training.small.nets import Sizes
from consisid_pack.consisid_core.training.small.pool import Pool, pixels
from consisid_pack.consisid_core.training.small.shelf import Extent, Shelf


@pytest.fixture(scope="session")
def sizes():
    return Sizes(
        pixels=32, text_length=8, text_width=32, layers=2, heads=1, token_width=32, vae_widths=(32, 32, 32, 32),
        parser_width=4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer():
    import os

    return Path(os.environ["COMFYUI_PATH"]) / "comfy/text_encoders/t5_tokenizer/tokenizer.json"


@pytest.fixture
def shelf(tmp_path, sizes):
    """Two rows of 6 people and 8 clips, all there: blurred noise, half of each picture being a face."""
    rng = np.random.default_rng(0)
    shelf = Shelf(tmp_path / "people", Extent.of(sizes, rows=2, people=6, clips=8))
    for name in ("reference", "grey", "crop", "clip", "inside", "inside_grey"):
        array = getattr(shelf, name)
        coarse = rng.integers(0, 256, (*array.shape[:2], 1, *array.shape[3:])) if array.ndim > 4 else 128
        array[:] = np.clip(coarse + rng.integers(-40, 40, array.shape), 0, 255)
    for name in ("embedding", "facts", "inside_embedding"):
        array = getattr(shelf, name)
        array[:] = rng.normal(size=array.shape)
    for name in ("labels", "crop_labels"):
        array = getattr(shelf, name)
        array[..., : array.shape[-1] // 2] = 1
    shelf.landmarks[:] = np.array([[10, 12], [20, 12], [15, 17], [11, 22], [19, 22]])
    shelf.owner[:] = np.arange(8) % 6
    shelf.text[:] = rng.integers(0, 5, shelf.text.shape)
    shelf.counts[:] = 6, 8
    return shelf


@pytest.fixture
def pool(shelf):
    return Pool(shelf, "cpu")


@pytest.fixture
def code(pool):
    return LinearCode.fit(torch.stack([pixels(clip).transpose(0, 1) for clip in pool.clip]))
