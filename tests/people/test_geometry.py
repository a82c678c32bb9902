import numpy as np
from consisid_pack.consisid_core.people import geometry


def test_rotation_directions():
    nose, chin = np.array([0.0, -1, 0]), np.array([0.0, 0, -1])
    assert (geometry.rotation(30, 0, 0) @ nose)[0] > 0.4  # to the person's left
    assert (geometry.rotation(0, 30, 0) @ nose)[2] > 0.4  # up
    assert (geometry.rotation(0, 0, 30) @ chin)[0] < -0.4
    turn = geometry.rotation(20, -10, 5)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(geometry.rotation(0, 0, 0), np.eye(3), atol=1e-12)


def test_view_of_a_camera():
    eye = np.array([1.0, -2, 0.5])
    axes = geometry.view_axes(eye, np.array([0.0, 0, 0.5]))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    points = np.array([[0, 0, 0.5], [0, 0, 1.5]], np.float32)
    seen = geometry.to_view(points, axes, eye)
    np.testing.assert_allclose(seen, [[0, 0, np.sqrt(5)], [0, 1, np.sqrt(5)]], atol=1e-6)


def test_normals_of_a_square():
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    normals = geometry.normals(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 4, atol=1e-6)


def test_skin_mixes_transforms():
    moved = np.stack([np.eye(4), np.eye(4)]).astype(np.float32)
    moved[1, 0, 3] = 2
    weights = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    result = geometry.skin(np.zeros((3, 3), np.float32), weights, moved)
    np.testing.assert_allclose(result[:, 0], [0, 2, 1])


def test_add_offsets_moves_what_is_named():
    vertices = np.zeros((3, 3), np.float32)
    geometry.add_offsets(vertices, np.array([2], np.uint16), np.array([[1, 2, 3]], np.float32), np.float32(0.5))
    np.testing.assert_allclose(vertices, [[0, 0, 0], [0, 0, 0], [0.5, 1, 1.5]])


def test_multiply():
    a, b = np.arange(9.0).reshape(3, 3), np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(geometry.multiply(a, b), a @ b)
