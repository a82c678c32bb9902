"""What serves in place of a released part. States as the command prints them are tested in test_download.py."""

import shutil

import gguf
import pytest
import torch
from consisid_pack.consisid_core.checkpoint.model_folders import ModelFolders
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.weights.parts import PARTS
from consisid_pack.consisid_core.weights.status import status_of
from helpers.weight_forms import write_gguf
from safetensors.torch import save_file

TRANSFORMER = next(part for part in PARTS if part.name == "transformer")


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models/diffusion_models").mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture(scope="module")
def release(models_dir):
    return read_checkpoint(models_dir / "diffusion_models/consisid_demo/transformer").tensors


WRITERS = {
    "a.gguf": lambda path, tensors: write_gguf(
        path, tensors, {name: gguf.GGMLQuantizationType.Q8_0 for name in tensors if name.endswith("to_q.weight")}
    ),
    "a.safetensors": lambda path, tensors: save_file(tensors, path),
    "a.pth": lambda path, tensors: torch.save(tensors, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_the_loader_takes_serves_as_well(name, models, release):
    path = models / "diffusion_models" / name
    WRITERS[name](path, release)
    status = status_of(TRANSFORMER, ModelFolders(models))
    assert (status.state, status.substitute) == ("replaced", name)
    assert status.note == f"{path} serves as well: choose it in the loader"


def test_demo_weights_and_other_files_do_not(models, models_dir, release):
    shutil.copytree(models_dir / "diffusion_models/consisid_demo", models / "diffusion_models/consisid_demo")
    save_file({"x": torch.ones(1)}, models / "diffusion_models/other.safetensors")
    (models / "diffusion_models/text.pth").write_text("text")
    (models / "diffusion_models/broken.gguf").write_bytes(b"GGUF")
    assert status_of(TRANSFORMER, ModelFolders(models)).state == "missing"
