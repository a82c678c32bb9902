"""Puts the ComfyUI under test on the path and loads this repository the way ComfyUI loads a custom-node pack.

`COMFYUI_PATH` names the ComfyUI; `scripts/test.py` sets it. Tests import the pack as `consisid_pack`.
"""

import asyncio
import gc
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def _use_comfyui():
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "main.py").is_file():
        pytest.exit("COMFYUI_PATH does not name a ComfyUI folder; run the tests with `python scripts/test.py`", 2)
    sys.path.insert(0, path)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


def _load_pack():
    spec = importlib.util.spec_from_file_location(
        "consisid_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["consisid_pack"] = module
    spec.loader.exec_module(module)


# A shell's background job ignores Ctrl-C, and with it would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.append(str(ROOT / "tests"))
# Nothing of what is imported is garbage. Looking for some in it would take a tenth of the tests' time.
gc.disable()
_use_comfyui()
_load_pack()

LONG = ("system", "weights", "training", "evaluation")
"""Rooms whose tests wait for servers and other processes, or train and score."""


def pytest_collection_modifyitems(items):
    """Start with the files that take longest, so that at the end no worker waits for another."""

    def place(item):
        room = item.path.relative_to(ROOT / "tests").parts[0]
        return LONG.index(room) if room in LONG else len(LONG)

    items.sort(key=place)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """A ComfyUI models folder with the tiny set, registered with ComfyUI."""
    import folder_paths
    from consisid_pack.consisid_core.comfyui import model_folders
    from consisid_pack.consisid_core.dev.tiny import write_tiny_models

    folder = tmp_path_factory.mktemp("models")
    write_tiny_models(folder)
    model_folders.register()
    for name in ("diffusion_models", "text_encoders", "vae", "consisid", "insightface"):
        folder_paths.add_model_folder_path(name, str(folder / name), is_default=True)
    folder_paths.set_temp_directory(str(folder / "temp"))  # For previews.
    return folder


@pytest.fixture(scope="session")
def pack(models_dir):
    """The stand-in insightface pack."""
    return models_dir / "insightface/models/consisid_demo"


@pytest.fixture(scope="session")
def detector(pack):
    from consisid_pack.consisid_core.face.detector import FaceDetector

    return FaceDetector(pack, ["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def node_classes(models_dir):
    """Node id -> class, through the entry point that ComfyUI calls."""

    async def load():
        extension = await sys.modules["consisid_pack"].comfy_entrypoint()
        return await extension.get_node_list()

    return {node.define_schema().node_id: node for node in asyncio.run(load())}


@pytest.fixture(scope="session")
def run_node(node_classes):
    """Run a node with schema defaults for whatever is not given; returns the tuple of its outputs."""

    def run(node_id, **inputs):
        node = node_classes[node_id]
        schema = node.define_schema()
        defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}
        with torch.inference_mode():
            return node.execute(**{**defaults, **inputs}).args

    return run


@pytest.fixture
def inputs():
    """Latents, image latents, text and identity tokens for the tiny transformer."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    return randn(1, 16, 5, 20, 30), randn(1, 16, 5, 20, 30), randn(1, 226, 64), randn(1, 32, 64)


@pytest.fixture(scope="module")
def run_python(tmp_path_factory):
    """Runs a program in a fresh interpreter that has imported nothing but ComfyUI; returns its output."""
    from helpers.interpreter import Interpreter

    with Interpreter(tmp_path_factory.mktemp("interpreter")) as interpreter:
        yield interpreter.run
