"""The key-point picture equals the reference's."""

import numpy as np
from consisid_pack.consisid_core.face.align import FFHQ_TEMPLATE, align_photo
from consisid_pack.consisid_core.face.keypoints import draw_keypoints, map_points
from consisid_pack.consisid_core.face.photo import Photo
from PIL import Image


def test_keypoints_equal_the_reference_drawing(friends, friends_faces):
    from diffusers.pipelines.consisid.pipeline_consisid import draw_kps

    random = np.random.default_rng(0)
    cases = [map_points(align_photo(Photo(friends), face)[1], face.landmarks) for face in friends_faces]
    cases += [random.uniform(-60, 570, (5, 2)) for _ in range(20)]
    cases += [np.full((5, 2), 200.0), FFHQ_TEMPLATE]
    for landmarks in cases:
        for size in (512, 256):
            expected = np.array(draw_kps(Image.new("RGB", (size, size)), landmarks))
            drawn = draw_keypoints(landmarks, size)
            assert drawn.dtype == np.uint8 and np.array_equal(drawn, expected)


def test_map_points():
    turn_and_shift = [[0, -1, 10], [1, 0, 20]]
    assert map_points(turn_and_shift, [[1, 2], [0, 0]]).tolist() == [[8, 21], [10, 20]]
