"""Faces cut out as facexlib does."""

import cv2
import numpy as np
import pytest
import skimage.data
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.align import (
    BORDER_RGB,
    FFHQ_TEMPLATE,
    align_photo,
    estimate_alignment,
    warp_face,
)
from consisid_pack.consisid_core.face.keypoints import map_points
from consisid_pack.consisid_core.face.photo import Photo, shrink_to_long_edge
from helpers.pictures import resize, similarity


@pytest.fixture
def facexlib_helper(monkeypatch):
    """facexlib's helper as the reference builds it, without its detector and parser."""
    from facexlib.utils import face_restoration_helper

    for init in ("init_detection_model", "init_parsing_model"):
        monkeypatch.setattr(face_restoration_helper, init, lambda *_, **__: None)
    return face_restoration_helper.FaceRestoreHelper(upscale_factor=1, face_size=512, crop_ratio=(1, 1))


def facexlib_alignment(helper, photo, landmarks):
    """(matrix, crop RGB) of facexlib for given landmarks."""
    helper.clean_all()
    helper.all_landmarks_5 = [landmarks]
    helper.read_image(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    helper.align_warp_face()
    return helper.affine_matrices[0], cv2.cvtColor(helper.cropped_faces[0], cv2.COLOR_BGR2RGB)


def test_alignment_equals_facexlib(facexlib_helper, friends, friends_faces):
    for face in friends_faces:
        matrix, crop = facexlib_alignment(facexlib_helper, friends, face.landmarks)
        assert np.array_equal(estimate_alignment(face.landmarks), matrix)
        assert np.array_equal(warp_face(friends, matrix), crop)
        ours, alignment = align_photo(Photo(friends), face)
        assert np.array_equal(ours, crop) and np.allclose(alignment, matrix)


def test_template_and_border_are_facexlibs(facexlib_helper, friends):
    assert np.array_equal(facexlib_helper.face_template, FFHQ_TEMPLATE)
    landmarks = FFHQ_TEMPLATE - 100  # a crop that leaves the photo at the top and on the left
    _, crop = facexlib_alignment(facexlib_helper, friends, landmarks.astype(np.float32))
    assert tuple(crop[0, 0]) == BORDER_RGB == tuple(warp_face(friends, [[1, 0, 100], [0, 1, 100]])[0, 0])


@pytest.mark.parametrize("factor", [1, 4])
def test_matrix_takes_the_landmarks_of_the_photo_to_the_template(detector, factor):
    photo = resize(skimage.data.astronaut(), factor)
    (face,) = detector.detect(Photo(photo))
    crop, alignment = align_photo(Photo(photo), face)
    assert crop.shape == (512, 512, 3) and crop.dtype == np.uint8 and alignment.dtype == np.float32
    assert np.abs(map_points(alignment, face.landmarks) - FFHQ_TEMPLATE).max() < 20
    (again,) = detector.detect(Photo(crop))
    assert np.abs(again.landmarks - map_points(alignment, face.landmarks)).max() < 20
    assert similarity(face, again) > 0.8


def test_the_crop_of_a_large_photo_comes_from_its_1024_px_copy(facexlib_helper, detector):
    photo = resize(skimage.data.astronaut(), 4)
    (face,) = detector.detect(Photo(photo))
    crop, alignment = align_photo(Photo(photo), face)
    small = shrink_to_long_edge(photo)
    _, expected = facexlib_alignment(facexlib_helper, small, (face.landmarks + 0.5) / 2 - 0.5)
    assert np.abs(crop.astype(int) - expected).max() <= 2
    assert np.abs(warp_face(photo, alignment).astype(int) - crop).mean() < 3  # the matrix fits the large photo


@pytest.mark.parametrize("landmarks", [np.full((5, 2), 7.0), np.full((5, 2), np.nan), FFHQ_TEMPLATE * 1e6])
def test_degenerate_landmarks_are_refused(landmarks):
    with pytest.raises(ConsisIDError, match="cannot be aligned"):
        estimate_alignment(landmarks)
