"""The command that trains, and that a run goes on as if it had not been stopped."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training import checkpoint as checkpoint_module
from consisid_pack.consisid_core.training import run as module
from consisid_pack.consisid_core.training.checkpoint import checkpoints, latest, read_progress, read_tensors
from consisid_pack.consisid_core.training.run import main, run
from helpers import ROOT
from helpers.processes import SECONDS, wait_until
from helpers.training_runs import equal_tensors, small_config, write_run

# Few tensors, because a checkpoint takes its time for each.
STAGES = {
    "coarse": """
        steps = 3
        learning_rate = 1e-2
        [stages.coarse.train]
        "transformer_blocks.0.ff.*" = 1.0
        "proj_out*" = 0.5""",
    "fine": """
        steps = 3
        learning_rate = 1e-2
        [stages.fine.train]
        "perceiver_cross_attention.*" = 1.0
        "proj_out*" = 0.1""",
}


@pytest.fixture
def stop_after(monkeypatch):
    """Have runs stop, as Ctrl-C stops them, after a step."""
    step = module.Trainer.step

    def set_step(number):
        def stopping(self, batches, done, asked):
            return step(self, batches, done, asked or done + 1 == number)

        monkeypatch.setattr(module.Trainer, "step", stopping)

    return set_step


def states(run_dir):
    return [read_tensors(latest(run_dir), kind) for kind in ("net", "ema", "exp_avg", "exp_avg_sq")]


def test_a_stopped_run_equals_one_that_was_not(tmp_path, stop_after):
    """Stopped within the first stage, at its end, and within the second."""
    config = small_config(tmp_path, stages=STAGES)
    run(config, tmp_path / "whole", "cpu")
    for number in (1, 3, 5, None):
        stop_after(number)
        assert run(config, tmp_path / "stopped", "cpu").step == (number or 6)
    whole, stopped = states(tmp_path / "whole"), states(tmp_path / "stopped")
    assert all(whole) and all(map(equal_tensors, whole, stopped))
    assert read_progress(latest(tmp_path / "whole")) == read_progress(latest(tmp_path / "stopped"))


def test_workers_of_the_loader_change_nothing(tmp_path):
    config = small_config(tmp_path, stages={"fine": STAGES["fine"]})
    run(config, tmp_path / "alone", "cpu")
    write_run(tmp_path, "", stages={"fine": STAGES["fine"]})
    file = tmp_path / "config.toml"
    file.write_text(file.read_text().replace("workers = 0", "workers = 2"))
    assert main([str(file), str(tmp_path / "helped"), "--device", "cpu"]) == 0
    assert all(map(equal_tensors, states(tmp_path / "alone"), states(tmp_path / "helped")))


def test_coarse_leaves_the_face_modules_untouched_and_fine_trains_them(tmp_path, stop_after):
    stages = {"coarse": "steps = 1\nlearning_rate = 1e-2", "fine": "steps = 1\nlearning_rate = 1e-2"}
    config = small_config(tmp_path, "[optimizer]\nwarmup = 0\n", stages=stages)
    start = {name: x.clone() for name, x in module.build_net(config).named_parameters()}
    stop_after(1)
    run(config, tmp_path / "run", "cpu")
    coarse = read_tensors(latest(tmp_path / "run"), "net")
    stop_after(None)
    run(config, tmp_path / "run", "cpu")
    fine = read_tensors(latest(tmp_path / "run"), "net")

    is_face = {name: name.startswith(("local_facial_extractor", "perceiver_cross_attention")) for name in start}
    assert sum(is_face.values()) > 50
    for name, tensor in start.items():
        assert torch.equal(coarse[name], tensor) == is_face[name], name
        assert not torch.equal(fine[name], coarse[name]), name


def test_steps_without_numbers_are_skipped_and_many_of_them_lead_back(tmp_path, monkeypatch, capsys):
    changes = "[guard]\nskips = 2\nreturns = 2\n[run]\nsave_every = 1\n"
    stages = {"fine": STAGES["fine"].replace("steps = 3", "steps = 6")}
    config = small_config(tmp_path, changes, stages=stages)
    losses, seen = module.Trainer.losses, []

    def broken(self, batch):
        seen.append(batch.noise.flatten()[0].item())
        # Two micro-batches a step: of step 2 one is broken, and all of 4 and 5 in the first attempt.
        bad = {2, 6, 7, 8, 9}
        return losses(self, batch) * (float("nan") if len(seen) - 1 in bad else 1)

    monkeypatch.setattr(module.Trainer, "losses", broken)
    progress = run(config, tmp_path / "run", "cpu")
    # Steps 4 and 5 ran again with other numbers, from the checkpoint of step 3.
    assert (progress.step, progress.attempt, progress.skipped) == (6, 1, 3)
    assert progress.updates == 5
    assert len(set(seen)) == len(seen)
    assert "The run goes back from step 5 to step 3" in "".join(capsys.readouterr())
    assert all(x.isfinite().all() for x in read_tensors(latest(tmp_path / "run"), "net").values())


def test_a_run_that_only_fails_ends_with_a_sentence(tmp_path, monkeypatch):
    config = small_config(tmp_path, "[guard]\nskips = 2\nreturns = 1\n", stages={"fine": STAGES["fine"]})
    losses = module.Trainer.losses
    monkeypatch.setattr(module.Trainer, "losses", lambda self, batch: losses(self, batch) / 0)
    with pytest.raises(ConsisIDError, match="no finite numbers, again and again after the start. Lower the learning"):
        run(config, tmp_path / "run", "cpu")


def test_a_full_disk_on_the_way_stops_nothing_and_loses_nothing(tmp_path, monkeypatch, capfd):
    config = small_config(tmp_path, "[run]\nsave_every = 1\nkeep = 9\n", stages={"fine": STAGES["fine"]})
    save = checkpoint_module.dcp.save

    def full(state, checkpoint_id, **options):
        if checkpoint_id.name.startswith("000002"):
            (checkpoint_id / "half.distcp").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, checkpoint_id=checkpoint_id, **options)

    monkeypatch.setattr(checkpoint_module.dcp, "save", full)
    run(config, tmp_path / "run", "cpu")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["000001", "000003"]
    assert "000002 cannot be written: the disk is full" in "".join(capfd.readouterr())
    assert not list((tmp_path / "run/checkpoints").glob("*.part"))


@pytest.fixture
def command(tmp_path):
    """Starts the command in a process of its own."""
    started = []

    def start(*arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "consisid_core.training", "run", *map(str, arguments), "--device", "cpu"],
            env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_ctrl_c_saves_and_one_folder_has_one_run(tmp_path, command, capsys):
    stages = {"fine": STAGES["fine"].replace("steps = 3", "steps = 100000")}
    file = write_run(tmp_path, "[run]\nsave_every = 1\n", stages=stages)
    process = command(file, tmp_path / "run")
    wait_until(lambda: checkpoints(tmp_path / "run"), process)
    assert main([str(file), str(tmp_path / "run"), "--device", "cpu"]) == 1
    assert f"is being trained by process {process.pid} on " in capsys.readouterr().err

    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=SECONDS)[0]
    step = read_progress(latest(tmp_path / "run")).step
    assert process.returncode == 130 and f"Stopped and saved at step {step}; the same command goes on" in output
    assert step >= 1


@pytest.mark.parametrize("damage", ["net", "seed", "cache", "foreign", "no cache", "no net"])
def test_what_does_not_belong_together_is_refused_in_a_sentence(tmp_path, damage, capsys):
    file, run_dir = write_run(tmp_path, stages={"fine": STAGES["fine"]}), tmp_path / "run"
    arguments = [str(file), str(run_dir), "--device", "cpu"]
    text = file.read_text()
    if damage == "foreign":
        run_dir.mkdir()
        (run_dir / "holiday.jpg").touch()
        words = "holds other files (holiday.jpg) and no run"
    elif damage == "no cache":
        file.write_text(text.replace('"cache"', '"elsewhere"'))
        words = "holds no prepared cache"
    elif damage == "no net":
        file.write_text(text.replace("net/diff", "net/dif"))
        words = "error:"
    else:
        run(module.load_config(file), run_dir, "cpu")
        before = states(run_dir)
        if damage == "net":
            file.write_text(text.replace("[net]", '[net]\ninjection = "between"'))
            words = "was begun with another net"
        elif damage == "seed":
            file.write_text(text + "[run]\nseed = 7\n")
            words = "was begun with another run.seed: 42, not 7"
        else:
            index = tmp_path / "cache/index.json"
            index.write_text(index.read_text().replace("vaevae", "other"))
            words = "was made with other weights: vae differ"
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    if damage in ("net", "seed", "cache"):
        assert all(map(equal_tensors, states(run_dir), before))


def test_settings_that_may_change_are_named_and_used(tmp_path, caplog):
    file = write_run(tmp_path, stages={"fine": STAGES["fine"]})
    run(module.load_config(file), tmp_path / "run", "cpu")
    file.write_text(file.read_text().replace("steps = 3", "steps = 4"))
    assert run(module.load_config(file), tmp_path / "run", "cpu").step == 4
    assert "stages.fine.steps was 3 and is 4 from here on" in caplog.text
