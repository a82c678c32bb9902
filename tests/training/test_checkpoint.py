"""Checkpoints: whole or not there, and as they were."""

import resource

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.checkpoint import (
    Progress,
    checkpoints,
    latest,
    load,
    read_progress,
    read_tensors,
    save,
)
from consisid_pack.consisid_core.training.distributed import Ranks
from helpers.training_runs import equal_tensors

CPU = Ranks(0, 1, torch.device("cpu"))


def state(seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    return {f"{kind}.{name}": torch.randn(size, generator=generator) for kind in ("net", "ema") for name in ("a", "b")}


def test_what_is_saved_is_read_back(tmp_path):
    progress = Progress("fine", step=12, updates=5, averaged=11, skipped=1, attempt=2)
    written = state()
    written["net.a"] = written["net.a"].bfloat16()
    path = save(tmp_path, written, progress, keep=2, ranks=CPU)
    assert path == latest(tmp_path) and read_progress(path) == progress
    into = {name: torch.zeros_like(tensor) for name, tensor in written.items()}
    load(path, into, CPU)
    assert equal_tensors(into, written)
    assert equal_tensors(read_tensors(path, "net"), {"a": written["net.a"], "b": written["net.b"]})
    assert read_tensors(path, "exp_avg") == {}


def test_the_newest_are_kept_and_one_of_the_same_step_is_replaced(tmp_path):
    for step in (2, 4, 10, 10):
        save(tmp_path, state(step), Progress("fine", step), keep=2, ranks=CPU)
    assert [path.name for path in checkpoints(tmp_path)] == ["000004", "000010"]
    assert equal_tensors(read_tensors(latest(tmp_path), "net"), read_tensors(checkpoints(tmp_path)[1], "net"))


def test_what_is_not_whole_is_not_seen(tmp_path):
    save(tmp_path, state(), Progress("fine", 2), keep=2, ranks=CPU)
    (tmp_path / "checkpoints/000004.part").mkdir()
    (tmp_path / "checkpoints/000005").mkdir()
    assert latest(tmp_path).name == "000002"
    save(tmp_path, state(), Progress("fine", 4), keep=2, ranks=CPU)
    assert latest(tmp_path).name == "000004" and not (tmp_path / "checkpoints/000004.part").exists()


@pytest.fixture
def small_disk():
    """The system refuses to write more than 20 kB into a file, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_last_good_one_survives_a_full_disk(tmp_path, small_disk):
    good = state()
    save(tmp_path, good, Progress("fine", 2), keep=1, ranks=CPU)
    with pytest.raises(ConsisIDError, match="000004 cannot be written: the disk is full.*Make room"):
        save(tmp_path, state(size=100_000), Progress("fine", 4), keep=1, ranks=CPU)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000002"]
    into = {name: torch.zeros_like(tensor) for name, tensor in good.items()}
    load(latest(tmp_path), into, CPU)
    assert equal_tensors(into, good)


@pytest.mark.parametrize("damage", ["tensors", "metadata", "progress", "another net"])
def test_a_damaged_one_is_named_with_the_way_out(tmp_path, damage):
    path = save(tmp_path, state(), Progress("fine", 2), keep=1, ranks=CPU)
    into = state()
    if damage == "tensors":
        file = next(path.glob("*.distcp"))
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "metadata":
        (path / ".metadata").write_bytes(b"nonsense")
    elif damage == "progress":
        (path / "progress.json").write_text("{}")
    else:
        into["net.c"] = torch.zeros(3)
    with pytest.raises(ConsisIDError, match="000002 cannot be read .*Remove this folder, and the run goes on from"):
        read_progress(path)
        load(path, into, CPU)
