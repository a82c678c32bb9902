"""Detections drawn into their photo."""

import cv2
import numpy as np
import pytest
from consisid_pack.consisid_core.face import drawing
from consisid_pack.consisid_core.face.detected_face import DetectedFace
from consisid_pack.consisid_core.face.drawing import draw_detections
from consisid_pack.consisid_core.face.photo import Photo


def changed_pixels(photo, drawn):
    return (photo != drawn).any(axis=2)


def count_color(picture, color):
    return int((picture == color).all(axis=2).sum())


def test_drawing_marks_the_chosen_face_only(friends, friends_faces):
    before = friends.copy()
    none_chosen = draw_detections(friends, friends_faces, -1)
    assert count_color(none_chosen, drawing._CHOSEN_COLOR) == 0
    for i, face in enumerate(friends_faces):
        drawn = draw_detections(friends, friends_faces, i)
        assert drawn.shape == friends.shape and drawn.dtype == np.uint8
        ys, xs = np.nonzero((drawn == drawing._CHOSEN_COLOR).all(axis=2))
        assert abs(np.median(xs) - face.center[0]) < face.size[0] and abs(np.median(ys) - face.center[1]) < 130
        row = drawn[round(face.center[1]) + 8, round(face.bbox[0]) - 1 : round(face.bbox[0]) + 8]
        assert count_color(row[None], drawing._CHOSEN_COLOR) == 4  # the others' lines are 2 px at this size
    assert np.array_equal(friends, before)


def test_drawing_changes_boxes_landmarks_and_labels_only(friends, friends_faces):
    changed = changed_pixels(friends, draw_detections(friends, friends_faces, 0))
    assert 0.005 < changed.mean() < 0.06
    near_a_face = np.zeros(changed.shape, bool)
    for face in friends_faces:
        x1, y1, x2, y2 = face.bbox.round().astype(int)
        near_a_face[y1 - 30 : y2 + 30, x1 - 90 : x2 + 90] = True
        inside = np.zeros(changed.shape, bool)
        inside[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8] = True
        for x, y in face.landmarks.round().astype(int):
            assert changed[y, x]
            inside[y - 4 : y + 5, x - 4 : x + 5] = False
        assert not (changed & inside).any()
    assert not (changed & ~near_a_face).any()
    assert np.array_equal(draw_detections(friends, [], 0), friends)


@pytest.mark.parametrize("width", [200, 3840])
def test_lines_and_text_grow_with_the_photo(detector, friends, width):
    photo = cv2.resize(friends, (width, round(width * 0.667)), interpolation=cv2.INTER_AREA)
    faces = detector.detect(Photo(photo))
    assert len(faces) == 5
    drawn = draw_detections(photo, faces, 0)
    plate = count_color(drawn, drawing._CHOSEN_COLOR)
    assert plate > 300  # at 200 px the label keeps a legible 10 px
    assert 0.005 < changed_pixels(photo, drawn).mean() < (0.2 if width == 200 else 0.06)


def test_drawing_stays_inside_the_picture():
    photo = np.zeros((40, 60, 3), np.uint8)
    face = DetectedFace(
        np.float32([-20, -10, 90, 70]), np.float32([[0, 0], [59, 0], [30, 20], [0, 39], [70, 50]]), 0.5, np.zeros(512)
    )
    drawn = draw_detections(photo, [face], 0)
    assert drawn.shape == photo.shape and count_color(drawn, drawing._CHOSEN_COLOR) > 100
