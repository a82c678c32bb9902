"""Two processes against one: the same losses and weights, and either goes on where the other stopped."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.checkpoint import latest, read_tensors
from consisid_pack.consisid_core.training.config import Batch, load_config
from consisid_pack.consisid_core.training.distributed import Ranks
from consisid_pack.consisid_core.training.run import run
from helpers import ROOT
from helpers.distributed import run_two
from helpers.oracle import relative_error
from helpers.processes import SECONDS
from helpers.training_runs import small_config, write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TOLERANCE = 1e-6
# Parameters of every part, but few, because a checkpoint takes its time for each.
TRAIN = '"*.proj*" = 1\n"*.to_q.weight" = 2\n"*.norm1.*" = 0.5\n"*mapping_4.*" = 1\n"proj_out.*" = 1'
STAGES = {
    "coarse": f"steps = 1\nlearning_rate = 1e-3\n[stages.coarse.train]\n{TRAIN}",
    "fine": f"steps = 2\nlearning_rate = 1e-3\n[stages.fine.train]\n{TRAIN}",
}
CHANGES = "[optimizer]\nwarmup = 0\n[run]\nsave_every = 2\nlog_every = 1\nkeep = 9\n"


def write_config(folder, sharding, checkpointing="true"):
    changes = f'{CHANGES}[memory]\nsharding = "{sharding}"\ncheckpointing = {checkpointing}\n'
    file = write_run(folder, changes, stages=STAGES)
    return file.rename(folder / f"{sharding}.toml")


def losses(run_dir):
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload().Scalars("loss/all")
    return {event.step: event.value for event in events}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("distributed")
    config = small_config(folder, CHANGES, stages=STAGES)
    run(config, folder / "alone", "cpu")
    return folder


def assert_equal_runs(one, other):
    theirs, ours = losses(one), losses(other)
    assert theirs.keys() == ours.keys() == {1, 2, 3}
    assert all(ours[step] == pytest.approx(theirs[step], rel=TOLERANCE) for step in theirs)
    for kind in ("net", "ema"):
        theirs, ours = (read_tensors(latest(run_dir), kind) for run_dir in (one, other))
        assert theirs.keys() == ours.keys()
        joined = [torch.cat([tensors[name].flatten() for name in theirs]) for tensors in (ours, theirs)]
        assert relative_error(*joined) < TOLERANCE


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_are_one_and_either_goes_on(alone, sharding):
    file = write_config(alone, sharding)
    run_two(file, alone / sharding)
    assert_equal_runs(alone / "alone", alone / sharding)

    # From the second step, within the second stage, the other goes on.
    for source, name in ((sharding, "one goes on"), ("alone", "two go on")):
        target = alone / f"{sharding}, {name}"
        shutil.copytree(alone / source, target)
        shutil.rmtree(latest(target))
        assert latest(target).name == "000002"
        if name == "two go on":
            run_two(file, target)
        else:
            run(load_config(file), target, "cpu")
        assert_equal_runs(alone / "alone", target)


@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_launchers_start_it(tmp_path, launcher):
    stages = {"fine": "steps = 1\nlearning_rate = 1e-3\n[stages.fine.train]\n'proj_out*' = 1"}
    file = write_run(tmp_path, stages=stages, size=2, micro=1)
    command = ["-m", *launcher, "-m", "consisid_core.training", "run", str(file), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, "--device", "cpu"], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("Trained to step 1") == 1
    assert len(list(latest(tmp_path / "run").glob("*.distcp"))) == 2


def test_batches_that_do_not_divide_are_refused():
    ranks = Ranks(0, 4, torch.device("cpu"))
    assert ranks.accumulation(Batch(size=24, micro=3)) == 2
    with pytest.raises(ConsisIDError, match="batch.size = 20 is no multiple of batch.micro = 3 clips on each of 4"):
        ranks.accumulation(Batch(size=20, micro=3))
