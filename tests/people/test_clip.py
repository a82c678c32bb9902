"""Clips and photos, and whether their facts are true."""

import numpy as np
import pytest
from consisid_pack.consisid_core.people import labels
from consisid_pack.consisid_core.people.clip import make_clip, make_photo
from consisid_pack.consisid_core.people.motion import ACTIONS
from consisid_pack.consisid_core.people.person import COLOURS


def test_shapes(head, renderer, people):
    clip = make_clip(head, renderer, people[0], np.random.default_rng(0), frames=5)
    assert (
        clip.frames.shape == (5, 96, 96, 3) and clip.labels.shape == (5, 96, 96) and clip.landmarks.shape == (5, 5, 2)
    )
    photo = make_photo(head, renderer, people[0], np.random.default_rng(0))
    assert photo.frames.shape == (96, 96, 3) and photo.labels.shape == (96, 96) and photo.landmarks.shape == (5, 2)
    assert photo.facts["action"] is None and photo.frames.dtype == photo.labels.dtype == np.uint8


def test_same_seed_same_clip(head, renderer, people):
    first, again = (make_clip(head, renderer, people[0], np.random.default_rng(5), frames=3) for _ in range(2))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.caption, first.facts) == (again.caption, again.facts)
    other = make_clip(head, renderer, people[0], np.random.default_rng(6), frames=3)
    assert (other.frames != first.frames).any()


@pytest.mark.parametrize("action", ACTIONS)
def test_chosen_action_is_said(head, renderer, people, action):
    clip = make_clip(head, renderer, people[0], np.random.default_rng(0), frames=2, action=action)
    assert clip.facts["action"] == action and ACTIONS[action] in clip.caption


def nearest(colour):
    """Which colour word a lit surface has: its brightness counts less than its hue."""

    def features(value):
        value = np.asarray(value, float)
        return np.append(0.5 * value.mean(), value - value.mean())

    return min(COLOURS, key=lambda word: np.linalg.norm(features(COLOURS[word]) - features(colour)))


def test_facts_are_true_of_the_pixels(head, renderer, people):
    right = {"shirt": [], "background": []}
    for number in range(24):
        clip = make_clip(head, renderer, people[number % 8], np.random.default_rng(number), frames=1)
        picture, labelled, facts = clip.frames[0] / 255, clip.labels[0], clip.facts
        assert facts["skin"] in clip.caption and facts["who"] in clip.caption
        if facts["shirt_second"] is None:
            right["shirt"].append(nearest(np.median(picture[labelled == labels.CLOTH], 0)) == facts["shirt"])
        if facts["background"] == "plain":
            wall = picture[labelled == labels.BACKGROUND]
            right["background"].append(nearest(np.median(wall, 0)) == facts["background_colours"][0])
        assert (labels.SPECTACLES in labelled) == facts["glasses"]
    assert np.mean(right["background"]) == 1 and len(right["background"]) > 8
    assert np.mean(right["shirt"]) >= 0.8 and len(right["shirt"]) > 8
