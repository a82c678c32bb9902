"""The command from a manifest to a cache that training reads: what it says, keeps, resumes and refuses."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training import examples
from consisid_pack.consisid_core.training.cache import ClipCache, Geometry, read_index
from consisid_pack.consisid_core.training.examples import Settings
from consisid_pack.consisid_core.training.prepare import main, prepare, read_records
from helpers import ROOT
from helpers.processes import wait_until
from helpers.training_nets import options, tiny_paths
from helpers.training_videos import SIZE, write_face_video, write_manifest, write_official
from helpers.videos import write_video

SETTINGS = Settings(Geometry(width=32, height=32, frames=5, stride=1), references=1, variants=1)
SMALL = "--width 32 --height 32 --frames 5 --stride 1 --references 1 --variants 1 --device cpu --provider CPU".split()


@pytest.fixture(scope="module", autouse=True)
def few_looks():
    """Looking for faces is most of the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "LOOKS", 2)
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two good videos and four that are not."""
    folder = tmp_path_factory.mktemp("videos")
    write_face_video(folder / "a.mp4", 7)
    write_face_video(folder / "b.mp4", 9)
    write_face_video(folder / "short.mp4", 4)
    write_video(folder / "empty.mp4", np.full((6, *SIZE, 3), 90, np.uint8))
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    return folder


@pytest.fixture(scope="module")
def nets(encoder_paths):
    return encoder_paths.fingerprints()


@pytest.fixture
def run(encoders, nets, tmp_path):
    """`prepare` with nets that are loaded already."""

    def run(manifest, cache=tmp_path / "cache", **changes):
        return prepare(read_records(manifest), cache, encoders, {**nets, **changes}, SETTINGS)

    return run


def files_of(cache):
    return {file.name: file.stat().st_mtime_ns for file in (cache / "clips").iterdir()}


def contents(cache):
    return [
        [clip.name, clip.latent_mean.tolist(), clip.inside[0].hidden_states.float().sum().item()]
        for clip in ClipCache(cache)
    ]


def test_from_a_manifest_to_a_cache(videos, run, tmp_path, nets, capsys):
    lines = [{"video": name} for name in ("b.mp4", "a.mp4", "short.mp4", "empty.mp4", "broken.mp4", "absent.mp4")]
    manifest = write_manifest(videos, *lines, {"video": "a.mp4", "caption": None})
    assert run(manifest) == 0
    text = (tmp_path / "cache/report.txt").read_text()
    assert text.startswith("2 clips of 1 people, from 2 of 7 videos.\nMasks: ")
    assert "Refused: 5 (1 no caption, 1 no face, 1 too short, 2 unreadable)." in text
    for sentence in (
        "short.mp4: the person is seen in 4",
        "empty.mp4: no face",
        "broken.mp4: ",
        "absent.mp4: The video",
    ):
        assert f"  {sentence}" in text
    assert text in capsys.readouterr().out
    facts = json.loads((tmp_path / "cache/report.json").read_text())
    assert facts["refused"] == {"no caption": 1, "no face": 1, "too short": 1, "unreadable": 2}
    cache = ClipCache(tmp_path / "cache")
    assert [clip.name for clip in cache] == ["b.mp4", "a.mp4"]  # As in the manifest.
    assert cache.geometry == SETTINGS.geometry and cache.index.nets == nets and cache.index.is_demo
    assert cache.index.missing == 0 and cache.people() == {"eileen": [0, 1]}
    assert cache[0].latent_mean.shape == (16, 2, 4, 4) and cache.empty_text.shape == (226, 64)
    assert not list((tmp_path / "cache/locks").iterdir())

    # Again: nothing is made anew, and the index follows the manifest.
    before = files_of(tmp_path / "cache")
    assert run(write_manifest(videos, {"video": "a.mp4"})) == 0
    assert files_of(tmp_path / "cache") == before
    assert [clip.name for clip in ClipCache(tmp_path / "cache")] == ["a.mp4"]
    # Another caption is another clip.
    assert run(write_manifest(videos, {"video": "a.mp4", "caption": "A smile."})) == 0
    (clip,) = ClipCache(tmp_path / "cache")
    assert clip.caption == "A smile." and files_of(tmp_path / "cache").keys() > before.keys()


def test_the_released_layout(run, tmp_path):
    assert run(write_official(tmp_path / "data", count=7)) == 0
    (clip,) = ClipCache(tmp_path / "cache")
    assert (clip.name, clip.mask_source) == ("anna_0_30.mp4", "given")


def test_nothing_to_train_on(videos, run, tmp_path, capsys):
    manifest = write_manifest(videos, {"video": "short.mp4"}, {"video": "empty.mp4"})
    assert run(manifest) == 1
    assert f"not one of 2 videos can be trained on; {tmp_path / 'cache/report.txt'} says why" in capsys.readouterr().err
    with pytest.raises(ConsisIDError, match="holds no clip yet"):
        ClipCache(tmp_path / "cache")


def test_a_cache_of_other_weights_is_left_alone(videos, run, tmp_path):
    manifest = write_manifest(videos, {"video": "a.mp4"})
    run(manifest)
    before = (tmp_path / "cache/index.json").read_bytes()
    with pytest.raises(ConsisIDError, match="was made with other weights: vae differ"):
        run(manifest, vae="0" * 64)
    assert (tmp_path / "cache/index.json").read_bytes() == before


def test_a_cache_of_other_clips_is_left_alone(videos, encoders, nets, run, tmp_path):
    manifest = write_manifest(videos, {"video": "a.mp4"})
    run(manifest)
    other = Settings(Geometry(**{**asdict(SETTINGS.geometry), "width": 48}), references=1, variants=1)
    with pytest.raises(ConsisIDError, match="was prepared for other clips: width 32 there and 48 here"):
        prepare(read_records(manifest), tmp_path / "cache", encoders, nets, other)


def test_ctrl_c_keeps_what_is_done(videos, run, encoders, tmp_path, monkeypatch):
    manifest = write_manifest(videos, {"video": "a.mp4"}, {"video": "b.mp4"})
    run(manifest, tmp_path / "whole")
    encode, calls = encoders.encode_text, []

    def interrupted(text):
        calls.append(text)
        if len(calls) == 3:  # After the empty text and the first video's.
            os.kill(os.getpid(), signal.SIGINT)
        return encode(text)

    monkeypatch.setattr(encoders, "encode_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(manifest)
    monkeypatch.undo()
    index = read_index(tmp_path / "cache")
    assert [clip.name for clip in index.clips] == ["a.mp4"] and index.missing == 1
    before = files_of(tmp_path / "cache")
    assert run(manifest) == 0
    assert before.items() <= files_of(tmp_path / "cache").items()
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_a_damaged_or_missing_clip_is_made_again(videos, run, tmp_path):
    manifest = write_manifest(videos, {"video": "a.mp4"}, {"video": "b.mp4"})
    run(manifest)
    before, kept = contents(tmp_path / "cache"), files_of(tmp_path / "cache")
    first = read_index(tmp_path / "cache").clips[0].key
    (tmp_path / f"cache/clips/{first}.safetensors").unlink()
    assert run(manifest) == 0
    after = files_of(tmp_path / "cache")
    assert contents(tmp_path / "cache") == before
    assert {name for name in kept if kept[name] != after[name]} == {f"{first}.safetensors"}


def command(models_dir, manifest, cache, *more, **paths):
    return [str(manifest), str(cache), *SMALL, *options({**tiny_paths(models_dir), **paths}), *more]


def test_kill_9_and_two_at_once(videos, models_dir, run, tmp_path):
    """A process is killed while another fills the same cache: every video is prepared, whole, and none is lost."""
    names = ["a.mp4", "b.mp4"] + [f"{i}.mp4" for i in range(2)]
    for name in names[2:]:
        shutil.copy(videos / "a.mp4", tmp_path / name)
    manifest = write_manifest(tmp_path, *({"video": str(videos / name)} for name in names[:2]),
                              *({"video": name} for name in names[2:]))  # fmt: skip
    cache = tmp_path / "cache"
    arguments = [sys.executable, "-m", "consisid_core.training", "prepare", *command(models_dir, manifest, cache)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as other:
        wait_until(lambda: [file for file in cache.glob("locks/*") if file.name != "index"], other)
        run(manifest)
        other.send_signal(signal.SIGKILL)
    assert run(manifest) == 0
    clips = ClipCache(cache)
    assert [clip.name.split("/")[-1] for clip in clips] == names and clips.index.missing == 0
    lines = [line for file in cache.glob("results_clips*.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 4, "no video twice"
    assert not list(cache.rglob("*.part")) and torch.equal(clips[2].latent_mean, clips[0].latent_mean)


def test_a_full_disk_keeps_what_is_done(videos, run, models_dir, tmp_path, capsys):
    """The limit on the size of a file that a process may write stands for the disk."""
    manifest = write_manifest(videos, {"video": "a.mp4"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert main(command(models_dir, manifest, tmp_path / "cache")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("error: ") and error.endswith("Make room, and run prepare again: what is done is kept.")
    assert run(manifest) == 0 and len(ClipCache(tmp_path / "cache")) == 1


# Said before any net is loaded


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--width", "100"], "--width 100 is no multiple of 16; the nearest is 96."),
        (["--frames", "48"], "--frames 48 is not 4n+1; the nearest is 49."),
        (["--clips", "0"], "--clips must be 1 or more."),
        (["--vae", "absent"], "There is no vae at absent."),
    ],
)
def test_wrong_options_are_told(videos, models_dir, tmp_path, more, words, capsys):
    manifest = write_manifest(videos, {"video": "a.mp4"})
    assert main(command(models_dir, manifest, tmp_path / "cache", *more)) == 1
    assert capsys.readouterr().err.startswith(f"error: {words}")
    assert not (tmp_path / "cache").exists()


def test_a_wrong_folder_is_left_alone(videos, models_dir, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thesis.txt").write_text("mine")
    manifest = write_manifest(videos, {"video": "a.mp4"})
    assert main(command(models_dir, manifest, tmp_path / "cache")) == 1
    assert "is neither empty nor a cache" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["thesis.txt"]
    assert main(command(models_dir, manifest, tmp_path / "cache/thesis.txt")) == 1
    assert "thesis.txt is a file" in capsys.readouterr().err


def test_a_manifest_is_found_in_its_folder(videos, tmp_path):
    write_manifest(tmp_path, {"video": "a.mp4"})
    assert [record.name for record in read_records(tmp_path)] == ["a.mp4"]
    write_official(tmp_path)
    with pytest.raises(ConsisIDError, match=r"holds both manifest.jsonl and total_train_data.txt. Name the file"):
        read_records(tmp_path)
    assert [record.name for record in read_records(tmp_path / "total_train_data.txt")] == ["anna_0_30.mp4"]
    with pytest.raises(ConsisIDError, match="holds neither"):
        read_records(tmp_path / "videos")
    with pytest.raises(ConsisIDError, match="does not exist. Name the manifest"):
        read_records(tmp_path / "absent.jsonl")
    (tmp_path / "prose.txt").write_text("One, two, three, four.")
    with pytest.raises(ConsisIDError, match="line 1: it is not valid JSON"):
        read_records(tmp_path / "prose.txt")
