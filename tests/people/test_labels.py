"""Labels against the pixels they were made with."""

import numpy as np
import pytest
from consisid_pack.consisid_core.face.parsing import WHITENED_LABELS
from consisid_pack.consisid_core.people import labels
from consisid_pack.consisid_core.people.motion import Moment
from helpers.people import plain_scene


@pytest.fixture(scope="module")
def drawings(renderer, people):
    """Each person in even light, looking into the camera."""
    return [renderer.draw(person, plain_scene(ambient=0.7), Moment((0, 0, 0))) for person in people]


def hue(colour):
    return colour / np.linalg.norm(colour)


def test_colours_lie_under_their_labels(people, drawings):
    for person, drawing in zip(people, drawings, strict=True):
        expected = {labels.SKIN: person.look.skin, labels.BACKGROUND: (0.13, 0.55, 0.55)}
        if person.look.shirt_pattern == 0:
            expected[labels.CLOTH] = person.look.shirt
        if person.words.hair:
            expected[labels.HAIR] = person.look.hair
        for label, colour in expected.items():
            under = drawing.picture[drawing.labels == label].astype(float)
            assert len(under) > 150
            assert hue(np.median(under, axis=0)) @ hue(np.array(colour)) > 0.985, (label, person.words)


def test_everything_has_its_place(drawings):
    for drawing in drawings:
        eye, other_eye, nose, *mouth = drawing.landmarks.round().astype(int)
        found = {
            labels.EYE: [eye, other_eye],
            labels.SKIN: [nose],
        }
        for label, places in found.items():
            for x, y in places:
                near = drawing.labels[y - 3 : y + 4, x - 3 : x + 4]
                assert label in near or labels.SPECTACLES in near
        for x, y in mouth:
            assert labels.LIP in drawing.labels[y - 3 : y + 4, x - 3 : x + 4]
        rows = {label: np.flatnonzero((drawing.labels == label).any(1)) for label in (labels.NECK, labels.CLOTH)}
        assert rows[labels.NECK].mean() > mouth[0][1] and rows[labels.CLOTH].max() == 95


def test_accessories_and_hair(people, drawings):
    for person, drawing in zip(people, drawings, strict=True):
        assert (labels.SPECTACLES in drawing.labels) == person.words.glasses
        assert (labels.HAIR in drawing.labels) == (person.words.hair is not None)
    assert {person.words.glasses for person in people} == {True, False}


def test_numbers_are_bisenets(drawings):
    used = {int(label) for drawing in drawings for label in np.unique(drawing.labels)}
    assert used - set(WHITENED_LABELS) - set(labels.FACE) == {labels.HAIR}
    assert used & set(WHITENED_LABELS) == {labels.BACKGROUND, labels.CLOTH, labels.NECK, labels.EAR}
