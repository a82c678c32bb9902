"""Sets on disk: what is in them, and that bytes depend on the seed alone."""

import json

import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.people import dataset, video_files
from consisid_pack.consisid_core.people.dataset import Settings, write_dataset
from consisid_pack.consisid_core.people.labels import FACE
from helpers.people import head_file

SMALL = Settings(clips=2, width=40, height=32, frames=3, seed=7)


def write(out, people, settings=SMALL):
    return write_dataset(out, people, settings, head_data=head_file())


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three people in one go."""
    folder = tmp_path_factory.mktemp("people") / "set"
    write(folder, 3)
    return folder


def test_manifest_and_facts(whole):
    manifest, facts = (
        [json.loads(line) for line in (whole / name).read_text().splitlines()]
        for name in ("manifest.jsonl", "facts.jsonl")
    )
    assert len(manifest) == len(facts) == 6
    for clip, fact in zip(manifest, facts, strict=True):
        assert list(clip) == ["video", "person", "caption", "mask", "fps"]
        assert (clip["video"], clip["person"]) == (fact["video"], fact["person"])
        assert fact["skin"] in clip["caption"]
        frames, mask = video_files.read(whole / clip["video"]), video_files.read(whole / clip["mask"], grey=True)
        labels = video_files.read(whole / fact["labels"], grey=True)
        assert frames.shape == (3, 32, 40, 3) and labels.shape == (3, 32, 40)
        np.testing.assert_array_equal(mask, np.isin(labels, FACE) * 255)
        assert 0.05 < (mask > 0).mean() < 0.5
        assert np.array(fact["landmarks"]).shape == (3, 5, 2)
    assert {clip["person"] for clip in manifest} == {"00000", "00001", "00002"}


def test_second_start_makes_what_is_missing(whole, tmp_path, monkeypatch):
    made = []
    sample = dataset.sample_person
    monkeypatch.setattr(dataset, "sample_person", lambda *given: made.append(given) or sample(*given))
    out = tmp_path / "set"
    write(out, 1)
    write(out, 3)
    assert len(made) == 3
    assert content(out) == content(whole)
    write(out, 3)
    assert len(made) == 3


def test_stopped_in_the_middle_of_a_person(whole, tmp_path, monkeypatch):
    out, clips = tmp_path / "set", []
    make = dataset.make_clip

    def stop(*given):
        clips.append(given)
        if len(clips) == 4:
            raise KeyboardInterrupt
        return make(*given)

    monkeypatch.setattr(dataset, "make_clip", stop)
    with pytest.raises(KeyboardInterrupt):
        write(out, 3)
    assert [folder.name for folder in (out / "people").iterdir()] == ["00000"]
    assert not (out / "manifest.jsonl").exists()
    monkeypatch.setattr(dataset, "make_clip", make)
    write(out, 3)
    assert content(out) == content(whole)


def test_seeds_and_streams_differ(whole, tmp_path):
    other = tmp_path / "set"
    write(other, 1, Settings(clips=2, width=40, height=32, frames=3, seed=8))
    assert content(other)["people/00000/000.mp4"] != content(whole)["people/00000/000.mp4"]
    # numpy would give (7, 1) and (7, 1, 0) the same stream.
    streams = [dataset.person_generator(7, 1), dataset.clip_generator(7, 1, 0), dataset.clip_generator(7, 1, 1)]
    streams += [dataset.person_generator(7, 0), dataset.clip_generator(7, 0, 0), dataset.person_generator(8, 1)]
    assert len({stream.random() for stream in streams}) == 6


def test_other_settings_are_refused(whole):
    before = content(whole)
    with pytest.raises(ConsisIDError, match=r"holds a set with clips 2, not 3; seed 7, not 9\. Use the same numbers"):
        write(whole, 3, Settings(clips=3, width=40, height=32, frames=3, seed=9))
    assert content(whole) == before


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConsisIDError, match="is not empty and holds no set of synthetic people"):
        write(tmp_path, 1)
    with pytest.raises(ConsisIDError, match="is not empty"):
        write(tmp_path / "thesis.txt", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_settings(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ConsisIDError, match=r"settings\.json is damaged"):
        write(tmp_path, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 8}, "The width is 8 pixels. Choose 32 to 1024"),
        ({"height": 4000}, "The height is 4000 pixels"),
        ({"frames": 0}, "--frames is 0"),
        ({"clips": -1}, "--clips is -1"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_numbers_that_make_no_sense(change, message):
    with pytest.raises(ConsisIDError, match=message):
        Settings(**{"clips": 1, "width": 96, "height": 96, **change})


def test_nobody(tmp_path):
    with pytest.raises(ConsisIDError, match="--people is 0"):
        write(tmp_path / "set", 0)
    assert not (tmp_path / "set").exists()
