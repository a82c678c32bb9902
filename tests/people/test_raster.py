import numpy as np
from consisid_pack.consisid_core.people import raster
from consisid_pack.consisid_core.people.head_data import LONG_HAIR, SKIN, TEETH

SHOWN = np.zeros(9, bool)
FRONT = np.array([[0, 2, 1]], np.int32)  # Front faces turn the way that has negative area on the picture.


def drawn(points, triangles, parts, hidden=SHOWN):
    buffers = raster.Buffers(8, 8)
    buffers.draw(np.array(points, np.float32), np.asarray(triangles, np.int32), np.array(parts, np.int8), hidden)
    return buffers


def test_triangle_and_its_weights():
    buffers = drawn([[0, 0, 1], [8, 0, 1], [0, 8, 3]], FRONT, [SKIN])
    inside = buffers.triangle == 0
    assert inside.sum() == 36  # Half of the pixels' centres, with the diagonal.
    assert (buffers.triangle[~inside] == raster.NOTHING).all()
    # Row 3: its centre is 3.5 of 8 down, and depth grows with the way down.
    np.testing.assert_allclose(buffers.depth[3, 0], 1 + 2 * 3.5 / 8, atol=1e-6)
    np.testing.assert_allclose(buffers.second[3, 0], 3.5 / 8, atol=1e-6)


def test_nearer_wins_in_any_order():
    points = [[0, 0, 2], [8, 0, 2], [0, 8, 2], [0, 0, 1], [8, 0, 1], [0, 8, 1]]
    far, near = [0, 2, 1], [3, 5, 4]
    assert drawn(points, [far, near], [SKIN, SKIN]).triangle.max() == 1
    assert (drawn(points, [near, far], [SKIN, SKIN]).triangle <= 0).all()


def test_back_faces_and_hidden_parts():
    points = [[0, 0, 1], [8, 0, 1], [0, 8, 1]]
    back = [[0, 1, 2]]
    assert drawn(points, back, [SKIN]).triangle.max() == raster.NOTHING
    assert drawn(points, back, [LONG_HAIR]).triangle.max() == 0  # Strips have two sides.
    hidden = SHOWN.copy()
    hidden[TEETH] = True
    assert drawn(points, FRONT, [TEETH], hidden).triangle.max() == raster.NOTHING


def test_outside_the_picture():
    assert drawn([[-9, -9, 1], [-1, -9, 1], [-9, -1, 1]], FRONT, [SKIN]).triangle.max() == raster.NOTHING
    assert (drawn([[-90, -90, 1], [200, -90, 1], [-90, 200, 1]], FRONT, [SKIN]).triangle == 0).all()


def test_orthographic_centre_and_scale():
    centre = np.array([0, 0, 0.5])
    points, matrix = raster.orthographic(
        np.array([[0, 0, 0.5], [0.1, 0, 0.5], [0, 0, 0.6]], np.float32), np.array([0.0, -1, 0]), centre, 100, 1.0
    )
    np.testing.assert_allclose(points, [[50, 50, 2], [60, 50, 2], [50, 40, 2]], atol=1e-4)
    assert matrix.shape == (3, 4)


def test_open_sky_is_darker_in_the_mouth(head, people):
    sky = people[0].sky
    assert sky.min() >= 0 and sky.max() <= 1
    mouth = head.zones[: len(head.template), 3] > 0.9
    forehead = head.is_skin & (head.template[:, 2] > 0.77) & (head.template[:, 1] < -0.1)
    assert sky[: len(mouth)][mouth].mean() < 0.5 * sky[: len(mouth)][forehead].mean()
