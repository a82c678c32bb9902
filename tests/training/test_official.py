"""The layout of the released training data gives the records that our manifest gives."""

import json
from dataclasses import replace

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.manifest import Refused, read_manifest
from consisid_pack.consisid_core.training.official import read_official
from helpers.training_videos import write_manifest, write_official

TRACKS = "annotations/track_masks_data/anna_0_30"


def test_both_layouts_give_the_same_record(tmp_path):
    (record,) = read_official(write_official(tmp_path / "data"))
    manifest = write_manifest(
        tmp_path / "data",
        {
            "video": "videos/anna_0_30.mp4",
            "person": "anna_0_30",
            "mask": f"{TRACKS}/tracking_mask_results/2",
            "fps": 24,
        },
    )
    (ours,) = read_manifest(manifest)
    # Our manifest names the path, and lets the face path find the frames.
    assert replace(record, name=ours.name, frames=None) == ours
    assert record.frames == tuple(i for i in range(30) if i != 4)


def test_paths_start_from_the_current_folder_first(tmp_path, monkeypatch):
    """As in the official code; or from a folder above the list, as in its own example."""
    list_file = write_official(tmp_path / "repo/data")
    list_file.write_text("data/videos,data/captions/captions.json,data/annotations\n")
    (record,) = read_official(list_file)
    assert record.video.is_file() and record.refused is None
    other = write_official(tmp_path / "elsewhere/data", name="other")
    monkeypatch.chdir(other.parents[1])
    (record,) = read_official(list_file)
    assert record.name == "other.mp4"


def test_masks_may_be_missing(tmp_path):
    list_file = write_official(tmp_path)
    (tmp_path / TRACKS / "tracking_mask_results").rename(tmp_path / "away")
    (record,) = read_official(list_file)
    assert record.mask is None and record.refused is None


def refusal(list_file):
    (record,) = read_official(list_file)
    assert isinstance(record.refused, Refused)
    return record.refused.kind, str(record.refused)


def test_several_people_are_refused(tmp_path):
    kind, sentence = refusal(write_official(tmp_path, people=("1", "2")))
    assert kind == "two people" and "have 2 people" in sentence


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("valid_frame", None, "annotations", "cannot be read (No such file"),
        ("corresponding_data", "{", "annotations", "cannot be read"),
        ("corresponding_data", "[]", "annotations", "are no JSON object"),
        ("valid_frame", '{"1": {"face": [], "head": []}}', "no face", "have no face and head of person 1"),
        ("valid_frame", '{"2": {}}', "no face", "have no face and head of person 1"),
        ("corresponding_data", '{"1": {"head": 1}}', "no face", "have no face and head of person 1"),
    ],
)
def test_broken_annotations_refuse_their_video(tmp_path, name, content, kind, words):
    list_file = write_official(tmp_path)
    file = tmp_path / TRACKS / f"{name}.json"
    file.write_text(content) if content else file.unlink()
    found, sentence = refusal(list_file)
    assert found == kind and words in sentence


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("videos,captions/captions.json\n", "line 1: it has 2 parts between commas"),
        ("\nvideo,captions/captions.json,annotations\n", "line 2: video is neither in the current folder nor beside"),
        ("", "lists no video"),
    ],
)
def test_a_wrong_list_is_told(tmp_path, line, words):
    list_file = write_official(tmp_path)
    list_file.write_text(line)
    with pytest.raises(ConsisIDError, match=words):
        read_official(list_file)


@pytest.mark.parametrize(
    ("captions", "words"), [("{", "is not valid JSON"), ('{"a": 1}', "must be a list"), (json.dumps([{}]), "must be a")]
)
def test_wrong_captions_are_told(tmp_path, captions, words):
    list_file = write_official(tmp_path)
    (tmp_path / "captions/captions.json").write_text(captions)
    with pytest.raises(ConsisIDError, match=f"captions.json {words}"):
        read_official(list_file)
