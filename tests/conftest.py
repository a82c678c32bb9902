"""Puts the ComfyUI under test on the path and loads this repository the way ComfyUI loads a custom-node pack.

`COMFYUI_PATH` names the ComfyUI; `scripts/test.py` sets it. Tests import the pack as `consisid_pack`.
"""

import importlib.util
import os
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


_use_comfyui()
_load_pack()
