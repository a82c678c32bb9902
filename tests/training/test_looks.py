"""Who is seen in a video, on real pictures with the stand-in face pack."""

import numpy as np
import pytest
import skimage.data
from consisid_pack.consisid_core.face.align import align_photo
from consisid_pack.consisid_core.face.photo import Photo
from consisid_pack.consisid_core.training.looks import best, glance, look, look_at_photos, of_one_person, spread
from consisid_pack.consisid_core.training.manifest import Refused
from helpers.pictures import read
from helpers.training_videos import moving_face
from helpers.videos import write_picture


@pytest.fixture(scope="module")
def group():
    """Six people at a table."""
    return read("insightface", "data/images/t1.jpg")


@pytest.fixture(scope="module")
def strangers(detector, group):
    """Looks at the single people of the group."""
    pictures = []
    for face in detector.detect(Photo(group)):
        (x, y), side = face.center, max(face.size)
        top, left = max(0, int(y - side)), max(0, int(x - side))
        pictures.append(np.ascontiguousarray(group[top : int(y + side), left : int(x + side)]))
    found = [look(glance(detector), picture, i) for i, picture in enumerate(pictures)]
    return [one for one in found if one and not one.has_rival]


@pytest.fixture(scope="module")
def one_person(detector):
    return [look(glance(detector), picture, 3 * i) for i, picture in enumerate(moving_face(4))]


def test_one_detection_gives_embedding_and_crop(detector):
    (picture,) = moving_face(1)
    found = look(glance(detector), picture, 7)
    (face,) = detector.detect(Photo(picture))
    crop, alignment = align_photo(Photo(picture), face)
    assert np.array_equal(found.face.embedding, face.embedding)
    assert np.array_equal(found.crop, crop) and np.array_equal(found.alignment, alignment)
    assert found.position == 7 and not found.has_rival


def test_no_face(detector):
    assert look(glance(detector), skimage.data.coffee(), 0) is None
    with pytest.raises(Refused) as caught:
        of_one_person([])
    assert caught.value.kind == "no face"


def test_two_faces_at_once_are_two_people(detector, group, one_person):
    found = look(glance(detector), group, 9)
    assert found.has_rival
    with pytest.raises(Refused, match="1 of 5 frames show two large faces, first frame 9") as caught:
        of_one_person([*one_person, found])
    assert caught.value.kind == "two people"
    assert of_one_person([*one_person * 3, found]) is not None, "a passer-by"


def test_two_faces_after_each_other_are_two_people(one_person, strangers):
    with pytest.raises(Refused, match="do not seem to be one person's"):
        of_one_person([*one_person[:2], *strangers[:2]])


def test_a_glimpse_of_somebody_else_is_left_out(one_person, strangers):
    assert of_one_person([*one_person, strangers[0]]) == one_person


def test_best_is_spread_and_sure(one_person):
    chosen = best(one_person * 2, 4)
    pairs = [(one_person * 2)[i : i + 2] for i in range(0, 8, 2)]
    assert [one.face.score for one in chosen] == [max(a.face.score, b.face.score) for a, b in pairs]
    assert best(one_person, 9) == one_person
    assert best([], 3) == []


def test_spread():
    assert spread(range(100), 4) == [0, 33, 66, 99]
    assert spread([2, 5, 7], 9) == [2, 5, 7]
    assert spread([2], 9) == [2]


def test_photos_of_the_person(detector, tmp_path, one_person, group):
    paths = [
        write_picture(tmp_path / "own.png", skimage.data.astronaut()),
        write_picture(tmp_path / "other.png", group),
        write_picture(tmp_path / "coffee.png", skimage.data.coffee()),
        tmp_path / "absent.png",
    ]
    looks, problems = look_at_photos(detector, paths, one_person)
    assert [one.position for one in looks] == [-1]
    assert "other.png does not seem to show the person of the video" in problems[0]
    assert "coffee.png shows no face" in problems[1] and "absent.png does not exist" in problems[2]
