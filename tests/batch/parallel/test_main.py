"""The command: two processes make the video of one, and what it refuses."""

import os
import re
import signal
import time
from contextlib import contextmanager

import av
import comfy.text_encoders.sd3_clip
import numpy as np
import pytest
import skimage.data
from consisid_pack.consisid_core.batch.parallel.__main__ import main
from consisid_pack.consisid_core.batch.server import free_port
from helpers.parallel import run_as
from helpers.processes import forkserver
from PIL import Image


@pytest.fixture(scope="module")
def nets(models_dir, pack):
    """Options that name the tiny nets."""
    tokenizer = comfy.text_encoders.sd3_clip.__file__.replace("sd3_clip.py", "t5_tokenizer")
    places = {
        "transformer": "diffusion_models/consisid_demo/transformer",
        "vae": "vae/consisid_demo/diffusion_pytorch_model.safetensors",
        "text-encoder": "text_encoders/consisid_demo/text_encoder",
        "tokenizer": tokenizer,
        "eva": "consisid/consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
        "parser": "consisid/consisid_demo/parsing_bisenet.pth",
        "pack": pack,
    }
    options = [part for name, place in places.items() for part in (f"--{name}", str(models_dir / place))]
    return [*options, "--device", "cpu", "--width", "96", "--height", "64", "--frames", "9", "--prompt", "A smile"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel_command")
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(folder / "nobody.png")
    return folder


@contextmanager
def started(count, folder, target, options):
    """Processes as torchrun starts them; what they print is in `{target}.{rank}.txt`."""
    port = free_port()
    arguments = [str(folder / "astronaut.png"), str(folder / target), *options]
    processes = [
        forkserver().Process(target=run_as, args=(rank, count, port, folder / f"{target}.{rank}.txt", arguments))
        for rank in range(count)
    ]
    for one in processes:
        one.start()
    try:
        yield processes
    finally:
        for one in processes:
            one.kill()


def wait_until(condition, processes):
    end = time.monotonic() + 200
    while not condition():
        assert all(one.is_alive() for one in processes) and time.monotonic() < end
        time.sleep(0.1)


def frames(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(int)


def test_two_processes_make_the_video_of_one(folder, nets, capsys):
    with started(2, folder, "two.mp4", [*nets, "--steps", "3"]) as several:
        assert main([str(folder / "astronaut.png"), str(folder / "one.mp4"), *nets, "--steps", "3"]) == 0
        assert "Layout: one process." in capsys.readouterr().out
        other = [str(folder / "astronaut.png"), str(folder / "other.mp4"), *nets, "--steps", "3", "--negative", "A hat"]
        assert main(other) == 0
        for one in several:
            one.join(timeout=200)
    printed = [(folder / f"two.mp4.{rank}.txt").read_text() for rank in (0, 1)]
    assert [one.exitcode for one in several] == [0, 0], printed
    assert "Layout: CFG 2." in printed[0] and "3/3" in printed[0] and "Wrote" in printed[0]
    assert "step" not in printed[1] and "Wrote" not in printed[1]
    expected, actual, with_negative = (frames(folder / f"{name}.mp4") for name in ("one", "two", "other"))
    assert expected.shape == (9, 64, 96, 3)
    # Lossy files, in which a last bit may tip other values.
    difference = abs(actual - expected).mean()
    assert difference < 1 and abs(with_negative - expected).mean() > 3 * difference
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_one_that_ends_ends_the_others(folder, nets, signal_number):
    target = f"ended_{signal_number}.mp4"
    printed = folder / f"{target}.0.txt"
    with started(2, folder, target, [*nets, "--steps", "1000"]) as processes:
        wait_until(lambda: printed.exists() and re.search(r"[1-9]/1000", printed.read_text()), processes)
        began = time.monotonic()
        ended = processes[1:] if signal_number == signal.SIGKILL else processes
        for one in ended:
            os.kill(one.pid, signal_number)
        for one in processes:
            one.join(timeout=30)
    first, second = processes
    assert time.monotonic() - began < 30 and not (folder / target).exists()
    if signal_number == signal.SIGKILL:
        assert first.exitcode == 1 and second.exitcode == -signal.SIGKILL
        assert "Process 0 of 2 stops, because another process of this run has ended" in printed.read_text()
    else:
        assert [first.exitcode, second.exitcode] == [130, 130]
        assert "Stopped; no video was written." in printed.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ring", "2"], "is a layout for 2 processes, but there are 1"),
        (["--ulysses", "0"], "--ulysses must be 1 or more"),
        (["--width", "100"], "--width 100 is no multiple of 16; the nearest is 96"),
        (["--frames", "8"], "--frames 8 is not 4n+1; the nearest is 9"),
        (["--steps", "0"], "--steps must be 1 to 1000"),
        (["--seed", "-1"], "--seed must be 0 to"),
        (["--transformer", "/nowhere"], "There is no transformer at /nowhere"),
        (["--vae", "/nowhere"], "There is no vae at /nowhere"),
    ],
)
def test_what_is_asked_for_is_checked_first(folder, nets, options, message, capsys):
    assert main([str(folder / "astronaut.png"), str(folder / "never.mp4"), *nets, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "never.mp4").exists()


def test_files_are_kept_and_photos_named(folder, nets, capsys):
    kept = folder / "kept.mp4"
    kept.write_text("mine")
    assert main([str(folder / "astronaut.png"), str(kept), *nets]) == 1
    assert f"{kept} exists already" in capsys.readouterr().err and kept.read_text() == "mine"
    assert main([str(folder / "missing.png"), str(folder / "never.mp4"), *nets]) == 1
    assert "missing.png" in capsys.readouterr().err
    assert main([str(folder / "astronaut.png"), str(folder / "no" / "never.mp4"), *nets]) == 1
    assert f"{folder / 'no'} is not a folder" in capsys.readouterr().err
