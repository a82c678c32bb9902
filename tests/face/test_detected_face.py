"""One face: its box, and the same face in another copy of the picture."""

import numpy as np
from consisid_pack.consisid_core.face.detected_face import DetectedFace

LANDMARKS = np.float32([[12, 22], [18, 22], [15, 26], [13, 30], [17, 30]])
FACE = DetectedFace(np.float32([10, 20, 20, 36]), LANDMARKS, 0.9, np.zeros(512, np.float32))


def test_the_box_in_other_words():
    assert FACE.center == (15, 28) and FACE.size == (10, 16) and FACE.area == 160


def test_a_face_in_a_copy_of_the_picture():
    twice_as_large = [[2, 0, 0.5], [0, 2, 0.5]]
    face = FACE.mapped(twice_as_large)
    assert face.bbox.tolist() == [20.5, 40.5, 40.5, 72.5] and face.bbox.dtype == np.float32
    assert np.array_equal(face.landmarks, 2 * LANDMARKS + 0.5) and face.landmarks.dtype == np.float32
    assert face.score == FACE.score and face.embedding is FACE.embedding


def test_a_face_equals_itself_only():
    assert FACE == FACE and FACE.mapped([[1, 0, 0], [0, 1, 0]]) != FACE
    assert [FACE].index(FACE) == 0 and len({FACE, FACE}) == 1
