"""Two processes against one: the same losses and weights, and either goes on where the other stopped."""

import json
import os
import subprocess
import sys

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.checkpoint import checkpoints, latest, read_tensors
from consisid_pack.consisid_core.training.config import Batch
from consisid_pack.consisid_core.training.distributed import Ranks
from consisid_pack.consisid_core.training.run import run
from helpers import ROOT
from helpers.oracle import relative_error
from helpers.training_runs import small_config, write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TOLERANCE = 1e-6
STAGES = {
    "coarse": "steps = 2\nlearning_rate = 1e-3",
    "fine": "steps = 2\nlearning_rate = 1e-3",
}
CHANGES = "[optimizer]\nwarmup = 1\n[run]\nsave_every = 1\nlog_every = 1\nkeep = 9\n"


def write_config(folder, sharding, checkpointing="true"):
    changes = f'{CHANGES}[memory]\nsharding = "{sharding}"\ncheckpointing = {checkpointing}\n'
    file = write_run(folder, changes, stages=STAGES)
    return file.rename(folder / f"{sharding}.toml")


def launch(launcher, file, run_dir):
    command = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                       "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
    }[launcher]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, "-m", "consisid_core.training", "run", str(file), str(run_dir), "--device", "cpu"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


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
    assert theirs.keys() == ours.keys() == {1, 2, 3, 4}
    assert all(ours[step] == pytest.approx(theirs[step], rel=TOLERANCE) for step in theirs)
    for kind in ("net", "ema"):
        theirs, ours = (read_tensors(latest(run_dir), kind) for run_dir in (one, other))
        assert theirs.keys() == ours.keys()
        joined = [torch.cat([tensors[name].flatten() for name in theirs]) for tensors in (ours, theirs)]
        assert relative_error(*joined) < TOLERANCE


@pytest.mark.parametrize(("sharding", "launcher"), [("ddp", "torchrun"), ("fsdp", "accelerate")])
def test_two_processes_are_one_and_either_goes_on(alone, sharding, launcher):
    import shutil

    file = write_config(alone, sharding)
    both = alone / sharding
    launch(launcher, file, both)
    assert_equal_runs(alone / "alone", both)

    # From the third step, within the second stage, the other goes on.
    for source, name in ((both, "one goes on"), (alone / "alone", "two go on")):
        target = alone / f"{sharding}, {name}"
        shutil.copytree(source, target)
        shutil.rmtree(latest(target))
        assert latest(target).name == "000003"
        if name == "two go on":
            launch(launcher, file, target)
        else:
            from consisid_pack.consisid_core.training.config import load_config

            run(load_config(file), target, "cpu")
        assert_equal_runs(alone / "alone", target)
