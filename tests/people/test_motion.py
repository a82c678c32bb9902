"""Each action is to be seen in the landmarks and the pixels."""

import numpy as np
import pytest
from consisid_pack.consisid_core.people.labels import BACKGROUND, INNER_MOUTH
from consisid_pack.consisid_core.people.motion import ACTIONS, sample_moment, sample_motion
from helpers.people import plain_scene

FRAMES = 9


def shown(renderer, person, action, seed=0):
    """Landmarks [T, 5, 2] and labels [T, H, W] of an action."""
    moments = sample_motion(action, FRAMES, np.random.default_rng(seed))
    drawings = [renderer.draw(person, plain_scene(), moment) for moment in moments]
    return np.stack([drawing.landmarks for drawing in drawings]), np.stack([drawing.labels for drawing in drawings])


def nose_beside_eyes(points):
    """Places of the nose between the eyes, -1 at the picture's left one to 1 at the right one."""
    middle, half = (points[:, 0] + points[:, 1]) / 2, (points[:, 1] - points[:, 0]) / 2
    return (points[:, 2] - middle)[:, 0] / half[:, 0]


def eye_to_nose(points):
    return points[:, 2, 1] - points[:, :2, 1].mean(1)


@pytest.mark.parametrize("seed", range(2))
def test_turns(renderer, people, seed):
    left, right = (
        nose_beside_eyes(shown(renderer, people[seed], action, seed)[0]) for action in ("turn left", "turn right")
    )
    assert left[-1] - left[0] > 0.4 and right[-1] - right[0] < -0.4


def test_looks_up_and_down(renderer, people):
    up, down = (eye_to_nose(shown(renderer, people[1], action)[0]) for action in ("look up", "look down"))
    assert up[-1] < up[0] - 2 and down[-1] > down[0] + 1


def test_nods_and_shakes(renderer, people):
    def swings(values):
        return np.ptp(values[:4]), np.ptp(values[3:7])

    nod = shown(renderer, people[1], "nod")[0][:, 2, 1]
    shake = nose_beside_eyes(shown(renderer, people[1], "shake")[0])
    assert min(swings(nod)) > 2 and min(swings(shake)) > 0.2


def test_tilts(renderer, people):
    points = shown(renderer, people[1], "tilt")[0]
    slope = (points[:, 1] - points[:, 0]) @ [0, 1] / ((points[:, 1] - points[:, 0]) @ [1, 0])
    assert abs(slope[-1] - slope[0]) > 0.25


def test_mouths(renderer, people):
    talking, opened = ((shown(renderer, people[1], a)[1] == INNER_MOUTH).sum((1, 2)) for a in ("talk", "open mouth"))
    assert opened[-1] > opened[0] + 30
    assert talking.max() > talking[0] + 5 and (np.diff(talking) > 0).any() and (np.diff(talking) < 0).any()
    smile = shown(renderer, people[1], "smile")[0]
    width = (smile[:, 4] - smile[:, 3])[:, 0]
    assert width[-1] > width[0] + 2


def test_camera(renderer, people):
    near, far = (
        (shown(renderer, people[1], f"camera {way}")[1] != BACKGROUND).mean((1, 2)) for way in ("nearer", "farther")
    )
    assert near[-1] > 1.1 * near[0] and far[-1] < 0.9 * far[0]


@pytest.mark.parametrize("action", ACTIONS)
def test_courses_are_deterministic_and_within_reach(action):
    for seed in range(20):
        moments = sample_motion(action, 17, np.random.default_rng(seed))
        assert moments == sample_motion(action, 17, np.random.default_rng(seed))
        angles = np.array([moment.angles for moment in moments])
        assert np.abs(angles).max() < 50
        assert all(0 <= amount <= 1.4 for moment in moments for amount in moment.face.values())
    assert len(sample_motion(action, 1, np.random.default_rng(0))) == 1


def test_photo_moments_are_frontal():
    moments = [sample_moment(np.random.default_rng(seed)) for seed in range(50)]
    assert np.abs([moment.angles for moment in moments]).max() <= 20
