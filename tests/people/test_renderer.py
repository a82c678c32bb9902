import numpy as np
from consisid_pack.consisid_core.people.motion import Moment
from consisid_pack.consisid_core.people.renderer import Renderer
from consisid_pack.consisid_core.people.scene import Background, Scene, sample_scene
from helpers.people import plain_scene


def test_same_inputs_same_bytes(head, renderer, people):
    scene, moment = sample_scene(np.random.default_rng(1)), Moment((10, 5, 0), {"jawOpen": 0.3})
    first = renderer.draw(people[0], scene, moment)
    renderer.draw(people[1], plain_scene(), Moment((0, 0, 0)))
    for drawing in (renderer.draw(people[0], scene, moment), Renderer(head, 96, 96).draw(people[0], scene, moment)):
        for mine, other in zip(drawing, first, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_size_and_kind(head, people):
    drawing = Renderer(head, 48, 80).draw(people[0], plain_scene(), Moment((0, 0, 0)))
    assert drawing.picture.shape == (48, 80, 3) and drawing.picture.dtype == np.uint8
    assert drawing.labels.shape == (48, 80) and drawing.labels.dtype == np.uint8
    assert drawing.landmarks.shape == (5, 2) and drawing.landmarks.dtype == np.float32


def test_wide_frames_keep_proportions(head, people):
    square, wide = (Renderer(head, 64, width).draw(people[0], plain_scene(), Moment((0, 0, 0))) for width in (64, 96))
    np.testing.assert_array_equal(square.picture[:, 20:44], wide.picture[:, 36:60])
    np.testing.assert_allclose(wide.landmarks - square.landmarks, np.tile([16, 0], (5, 1)), atol=1e-4)


def test_background_given_before(renderer, people):
    scene = plain_scene()
    drawn = renderer.draw(people[0], scene, Moment((0, 0, 0)))
    given = renderer.draw(people[0], scene, Moment((0, 0, 0)), scene.background.draw(96, 96))
    np.testing.assert_array_equal(drawn.picture, given.picture)
    other = Scene(scene.light, Background("plain", ("red", "blue")), scene.camera_angles, scene.field_of_view)
    changed = (renderer.draw(people[0], other, Moment((0, 0, 0))).picture != drawn.picture).any(2)
    assert changed[drawn.labels == 0].mean() > 0.99


def test_detector_finds_the_faces_and_their_landmarks(head, people, detector):
    """YuNet within 35 degrees of the camera; distances in shares of the picture."""
    renderer, distances = Renderer(head, 256, 256), []
    for number, person in enumerate(people[:4]):
        for yaw in (-35, 0, 35):
            scene = sample_scene(np.random.default_rng(number))
            drawing = renderer.draw(person, scene, Moment((yaw, 0, 0), {"eyeBlink": 0.1}))
            (face,) = detector.look(drawing.picture)
            distances.append(np.linalg.norm(face.landmarks - drawing.landmarks, axis=1) / 256)
    assert np.median(distances, axis=0).max() < 0.03
    assert np.max(distances) < 0.08
