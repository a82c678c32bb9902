"""One person's shape, posed."""

import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.people import head_data
from consisid_pack.consisid_core.people.head import GLASSES, LIPS, Head
from consisid_pack.consisid_core.people.head_data import BONES
from helpers.people import head_file

EVEN = (1 / 3, 1 / 3, 1 / 3)


@pytest.mark.parametrize("woman", [0, 1])
@pytest.mark.parametrize("old", [0, 1])
@pytest.mark.parametrize("ancestry", range(3))
def test_corners_are_makehumans(head, woman, old, ancestry):
    with np.load(head_file()) as data:
        offsets, bones = data["people"][6 * woman + 3 * old + ancestry], data["people_bones"]
    rest = head.rest(woman, old, tuple(float(i == ancestry) for i in range(3)), {})
    np.testing.assert_allclose(rest.vertices, head.template + offsets.astype(np.float32), atol=1e-6)
    np.testing.assert_allclose(rest.bones, bones[6 * woman + 3 * old + ancestry], atol=1e-6)


def test_changes_are_directed(head):
    plain = head.rest(0.5, 0, EVEN, {})
    for amount in (0.5, -0.5):
        changed = head.rest(0.5, 0, EVEN, {"nose-scale-vert-incr": amount})
        moved = np.abs(changed.vertices - plain.vertices).max(1)
        assert 0.0005 < moved.max() < 0.02
        assert head.template[moved > 1e-5][:, 1].max() < -0.05  # Nothing behind the face.


def test_pose_at_rest_keeps_the_face(head):
    rest = head.rest(1, 0.3, EVEN, {})
    mesh = head.pose(rest)
    face = head.is_skin & (head.template[:, 2] > 0.65)
    np.testing.assert_allclose(mesh.vertices[: len(face)][face], rest.vertices[face], atol=3e-4)
    assert len(mesh.vertices) == len(mesh.normals) == len(head.places) == len(head.zones)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals[: len(face)][face], axis=1), 1, atol=1e-4)


def test_turns_and_actions(head):
    rest = head.rest(0, 0, EVEN, {})
    nose, left_lip = head.landmarks[2], head.landmarks[3]
    calm = head.pose(rest).vertices
    assert head.pose(rest, (30, 0, 0)).vertices[nose, 0] > calm[nose, 0] + 0.02  # to the person's left, +x
    assert head.pose(rest, (0, 20, 0)).vertices[nose, 2] > calm[nose, 2] + 0.01
    tilted = head.pose(rest, (0, 0, 20)).vertices[head.landmarks[:2]]
    assert tilted[0, 2] - tilted[1, 2] > 0.01  # The picture's left eye goes up.
    smiling = head.pose(rest, actions={"mouthSmile": 1}).vertices[left_lip]
    assert smiling[0] < calm[left_lip, 0] - 0.002 and smiling[2] > calm[left_lip, 2] + 0.002
    lips = np.flatnonzero(head.zones[: len(head.template), LIPS] > 0.5)
    opened = head.pose(rest, actions={"jawOpen": 1}).vertices
    assert np.ptp(opened[lips, 2]) > np.ptp(calm[lips, 2]) + 0.01


def test_both_sides_or_one(head):
    rest = head.rest(0, 0, EVEN, {})
    calm = head.pose(rest).vertices

    def moved(name):
        change = np.abs(head.pose(rest, actions={name: 1}).vertices - calm).max(1)[: len(head.template)]
        left = head.template[:, 0] > 0
        # One vertex in a hundred lies inside the nose, where MakeHuman pulls on both sides.
        return (change[left] > 0.003).sum() > 100, (change[~left] > 0.003).sum() > 100

    assert moved("eyeBlink") == (True, True)
    assert moved("eyeBlinkLeft") == (True, False)


def test_hair_and_glasses_ride_on_the_head(head):
    rest = head.rest(0, 0, EVEN, {})
    heights = np.full(len(head.hair_roots), 0.02, np.float32)
    spectacles = head.fit_glasses(rest, 0.022, 2)
    straight = head.pose(rest, hair=heights, spectacles=spectacles).vertices
    turned = head.pose(rest, (25, 0, 0), hair=heights, spectacles=spectacles).vertices
    first, count = len(head.template), len(head.hair_roots)
    np.testing.assert_allclose(
        np.linalg.norm(turned[first : first + count] - turned[head.hair_roots], axis=1), 0.02, atol=1e-5
    )
    frames = np.unique(head.triangles[head.parts == GLASSES])
    eye = BONES.index("eye.L")
    assert np.abs(straight[frames, 2] - rest.bones[eye, 2]).max() < 0.03
    assert turned[frames, 0].mean() > straight[frames, 0].mean() + 0.01


def test_landmarks_have_the_pictures_order(head):
    eye, other_eye, nose, lip, other_lip = head.template[head.landmarks]
    assert eye[0] < nose[0] < other_eye[0] and lip[0] < nose[0] < other_lip[0]
    assert eye[2] > nose[2] > lip[2] and nose[1] < eye[1]
    assert abs(eye[0] + other_eye[0]) < 1e-3 and abs(lip[0] + other_lip[0]) < 1e-3


def test_damaged_file(tmp_path):
    for name, content in (("cut.npz", head_file().read_bytes()[:1000]), ("text.npz", b"no arrays"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConsisIDError, match=f"{name} is no head data of this version .* Delete it"):
            Head.load(tmp_path / name)


def test_builds_a_missing_file(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        head_data, "build", lambda path: built.append(path) or path.write_bytes(head_file().read_bytes())
    )
    monkeypatch.setenv("CONSISID_CACHE", str(tmp_path))
    assert len(Head.load().template) == 7111
    Head.load()
    assert built == [head_data.default_path()]
