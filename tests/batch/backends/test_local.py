from pathlib import Path

import pytest
import torch
from consisid_pack.consisid_core.batch.backends import local
from consisid_pack.consisid_core.batch.backends.local import Local, visible_gpus
from consisid_pack.consisid_core.errors import ConsisIDError


@pytest.fixture
def launched(monkeypatch):
    """What a backend would have started: {name: Worker}."""
    found = {}
    monkeypatch.setattr(Local, "launch", lambda self, makers: found.update(makers))
    return found


def start(tmp_path, workers=0, options=(), gpus_each=1):
    Local(Path("/comfyui"), tmp_path, list(options), workers, 60, gpus_each).start(frozenset(), "")


def test_a_server_for_each_gpu(tmp_path, launched, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["2", "5"])
    start(tmp_path)
    servers = {name: worker.server for name, worker in launched.items()}
    assert {name: server.gpu for name, server in servers.items()} == {"gpu-2": "2", "gpu-5": "5"}
    assert all("--cpu" not in server.options for server in servers.values())
    assert len({server.folder for server in servers.values()}) == 2
    with pytest.raises(ConsisIDError, match="There are 2 GPUs for 3 workers"):
        start(tmp_path, workers=3)
    launched.clear()
    start(tmp_path, workers=1)
    assert list(launched) == ["gpu-2"]


def test_a_server_for_several_gpus(tmp_path, launched, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "2", "5"])
    start(tmp_path, gpus_each=2)
    assert {name: worker.server.gpu for name, worker in launched.items()} == {"gpu-0-2": "0,2"}
    with pytest.raises(ConsisIDError, match="There are 3 GPUs for 2 workers, and each needs 2 of its own"):
        start(tmp_path, workers=2, gpus_each=2)
    monkeypatch.setattr(local, "visible_gpus", list)
    with pytest.raises(ConsisIDError, match="There are 0 GPUs for 1 workers.*leave --workers and --gpus-per-video out"):
        start(tmp_path, gpus_each=2)


def test_servers_on_the_cpu(tmp_path, launched, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", list)
    start(tmp_path, workers=2, options=["--fast"])
    assert [worker.server.options for worker in launched.values()] == [["--fast", "--cpu"]] * 2
    assert list(launched) == ["cpu-0", "cpu-1"] and launched["cpu-0"].server.gpu is None


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    assert visible_gpus() == ["3", "GPU-5f"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
