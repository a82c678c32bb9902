import os
from pathlib import Path

import pytest
import torch
from consisid_pack.consisid_core.batch.server import OwnServer
from helpers import ROOT
from helpers.batch import TROUBLE, plain_graph
from helpers.served import QUICKER


@pytest.fixture(scope="session")
def base(tmp_path_factory, models_dir):
    """A base directory for ComfyUI with this pack, another one that makes trouble, and the tiny files."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("custom_nodes", "input", "output", "user"):
        (folder / name).mkdir()
    (folder / "custom_nodes" / "comfyui-consisid").symlink_to(ROOT, target_is_directory=True)
    (folder / "custom_nodes" / "trouble.py").write_text(TROUBLE)
    (folder / "models").symlink_to(models_dir, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def server_options(base):
    return [QUICKER, "--base-directory", str(base), *([] if torch.cuda.is_available() else ["--cpu"])]


@pytest.fixture(scope="session")
def node_types():
    return frozenset(node["class_type"] for node in plain_graph().values())


@pytest.fixture(scope="session")
def server(tmp_path_factory, server_options, node_types):
    """A running ComfyUI."""
    server = OwnServer(Path(os.environ["COMFYUI_PATH"]), tmp_path_factory.mktemp("server"), server_options)
    server.start(node_types)
    yield server
    server.stop()
