"""Videos at intervals of a run: when they are made, by which weights, and that they never change the training."""

import json
import shutil
import signal

import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.video import VideoFile
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.checkpoint import latest, read_tensors
from consisid_pack.consisid_core.training.run import run
from consisid_pack.consisid_core.training.validation import Validator, main, read_scores
from helpers.distributed import run_two
from helpers.training import GEOMETRY
from helpers.training_cases import write_random_cases
from helpers.training_runs import NET, equal_tensors, small_config, write_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVERY_THREE = "[validation]\nevery = 3\nsteps = 2\n"
# Few tensors, because a checkpoint takes its time for each.
STAGES = {
    "coarse": "steps = 1\nlearning_rate = 1e-2\n[stages.coarse.train]\n'proj_out*' = 1.0",
    "fine": "steps = 4\nlearning_rate = 1e-2\n[stages.fine.train]\n'perceiver_cross_attention.*' = 1.0",
}


@pytest.fixture(scope="module")
def vae(models_dir):
    return models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def validated(tmp_path_factory, vae, pack):
    """A folder with a run of two stages that has validated."""
    folder = tmp_path_factory.mktemp("validated")
    write_run(folder)
    write_random_cases(folder / "cache", NET, GEOMETRY, vae, pack)
    run(small_config(folder, EVERY_THREE, stages=STAGES), folder / "run", "cpu")
    return folder


def copy_inputs(source, target):
    for name in ("cache", "net"):
        shutil.copytree(source / name, target / name)


def frames_of(file):
    return np.stack([frame for _, frame in VideoFile(file).frames()]).astype(int)


def test_videos_come_at_intervals_and_at_the_end(validated):
    folder = validated / "run" / "validation"
    assert sorted(path.name for path in folder.iterdir()) == ["000003", "000005"]
    for step in folder.iterdir():
        assert sorted(path.name for path in step.iterdir()) == ["anna.mp4", "bob.mp4", "scores.json", "strip.jpg"]
    scores = read_scores(validated / "run")
    assert [score["step"] for score in scores] == [3, 5] and scores[0]["stage"] == "fine"
    assert [case["name"] for case in scores[0]["cases"]] == ["anna", "bob"]
    assert scores[0]["cases"][0]["frames"] == 9 and scores[0]["is_averaged"] and scores[0]["is_stand_in"]
    width, height = Image.open(folder / "000003" / "strip.jpg").size
    assert width > 6 * GEOMETRY.width and height > 2 * GEOMETRY.height
    events = EventAccumulator(str(validated / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/FaceSim")] == [3, 5]
    assert [event.step for event in events.Images("validation/videos")] == [3, 5]


def test_validation_does_not_change_the_training(validated, tmp_path):
    copy_inputs(validated, tmp_path)
    run(small_config(tmp_path, "[validation]\nevery = 0\n", stages=STAGES), tmp_path / "run", "cpu")
    assert not (tmp_path / "run" / "validation").exists()
    for kind in ("net", "ema", "exp_avg"):
        one, other = (read_tensors(latest(folder / "run"), kind) for folder in (validated, tmp_path))
        assert one and equal_tensors(one, other)


def test_the_command_makes_the_same_videos_from_a_checkpoint(validated, tmp_path, capsys):
    """By the averaged weights of the last step, as the run itself did."""
    arguments = [str(validated / "run"), str(tmp_path / "out"), "--steps", "2", "--device", "cpu"]
    assert main(arguments) == 0
    assert "anna: FaceSim" in (printed := capsys.readouterr().out) and "frames without a face" in printed
    first = frames_of(validated / "run/validation/000005/anna.mp4")
    assert abs(frames_of(tmp_path / "out" / "anna.mp4") - first).max() <= 2  # Sums in another order.
    assert (tmp_path / "out" / "strip.jpg").is_file()
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores == read_scores(validated / "run")[-1]

    assert main([*arguments, "--last"]) == 1
    assert "exists already" in capsys.readouterr().err
    arguments[1] = str(tmp_path / "last")
    assert main([*arguments, "--last"]) == 0
    assert abs(frames_of(tmp_path / "last" / "anna.mp4") - first).mean() > 1
    assert main([arguments[0], str(tmp_path / "no"), "--steps", "0"]) == 1
    assert "--steps must be 1 to 1000" in capsys.readouterr().err


def test_two_processes_with_a_sliced_net_make_the_same_videos(validated, tmp_path):
    copy_inputs(validated, tmp_path)
    sharded = write_run(tmp_path, EVERY_THREE + '[memory]\nsharding = "fsdp"\n', stages=STAGES)
    run_two(sharded, tmp_path / "run")
    folders = [folder / "run" / "validation" / "000005" for folder in (validated, tmp_path)]
    assert [path.name for path in sorted(folders[1].iterdir())] == [path.name for path in sorted(folders[0].iterdir())]
    # Frames as they were before H.264, which makes much of a pixel that another order of sums rounds to its neighbour.
    one, two = (np.asarray(Image.open(folder / "strip.jpg")).astype(int) for folder in folders)
    assert one.shape == two.shape and abs(one - two).mean() < 0.02


def test_what_goes_wrong_with_videos_does_not_end_the_training(validated, tmp_path, monkeypatch, capsys):
    copy_inputs(validated, tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Validator, "write", full)
    progress = run(small_config(tmp_path, EVERY_THREE, stages=STAGES), tmp_path / "run", "cpu")
    assert progress.step == 5
    assert "warning: no validation videos of step 3: OSError" in capsys.readouterr().out


def test_a_stop_ends_the_videos_too_and_saves(validated, tmp_path, monkeypatch):
    copy_inputs(validated, tmp_path)
    made = []

    def interrupted(self, predict, net, device, on_step):
        signal.raise_signal(signal.SIGINT)
        on_step()

    monkeypatch.setattr(Validator, "write", lambda *_: made.append(1))
    monkeypatch.setattr(Validator, "latents", interrupted)
    progress = run(small_config(tmp_path, EVERY_THREE, stages=STAGES), tmp_path / "run", "cpu")
    assert not made and progress.step == 4 and latest(tmp_path / "run").name == "000004"


def test_a_cache_without_cases_says_how_to_have_some(tmp_path, capsys):
    run(small_config(tmp_path, EVERY_THREE), tmp_path / "run", "cpu")
    assert "No validation videos: the cache names no people and prompts" in capsys.readouterr().out
    assert not (tmp_path / "run" / "validation").exists()


def test_nets_that_are_gone_are_said_before_training(tmp_path, vae, pack):
    config = small_config(tmp_path, EVERY_THREE)
    write_random_cases(tmp_path / "cache", NET, GEOMETRY, tmp_path / "gone.safetensors", pack)
    with pytest.raises(ConsisIDError, match="gone.safetensors is gone, which decodes validation videos"):
        run(config, tmp_path / "run", "cpu")
    assert len(ClipCache(tmp_path / "cache")) == 6
