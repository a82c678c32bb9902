"""Who is drawn."""

import numpy as np
import pytest
from consisid_pack.consisid_core.people import person as persons
from consisid_pack.consisid_core.people.clip import make_photo
from consisid_pack.consisid_core.people.head import GLASSES, HAIR
from consisid_pack.consisid_core.people.head_data import LONG_HAIR
from consisid_pack.consisid_core.people.renderer import Renderer
from helpers.people import person_of


@pytest.fixture(scope="module")
def crowd(head):
    return [person_of(head, 100 + seed) for seed in range(40)]


def test_same_seed_same_person(head, people):
    again = person_of(head, 3)
    assert again.words == people[3].words and again.look == people[3].look
    np.testing.assert_array_equal(again.rest.vertices, people[3].rest.vertices)
    np.testing.assert_array_equal(again.sky, people[3].sky)
    assert np.abs(people[4].rest.vertices - again.rest.vertices).max() > 0.002


def test_all_are_grown_up(crowd):
    years = np.array([person.years for person in crowd])
    assert persons.YOUNGEST == 25 <= years.min() and years.max() <= persons.OLDEST
    assert {person.words.who.split()[0] for person in crowd} == {"young", "middle-aged", "old"}
    assert {person.words.who.split()[1] for person in crowd} == {"man", "woman"}
    for person in crowd:
        assert person.words.who.endswith(" woman" if person.woman else " man")
        assert person.words.who.startswith("old") == (person.years >= 62)


def test_women_and_men_have_their_heads(head, crowd):
    """Gender moves the mesh: MakeHuman's men have the wider necks."""
    neck = head.is_skin & (np.abs(head.template[:, 2] - 0.61) < 0.01) & (np.abs(head.template[:, 0]) < 0.08)
    widths = {
        woman: np.mean([np.ptp(person.rest.vertices[neck, 0]) for person in crowd if person.woman == woman])
        for woman in (False, True)
    }
    assert widths[False] > 1.05 * widths[True]


def test_ancestry_is_spread(crowd):
    shares = np.array([person.ancestry for person in crowd])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert np.abs(shares.mean(0) - 1 / 3).max() < 0.15
    assert (np.bincount(shares.argmax(1), minlength=3) > 6).all()


def nearest(colour, colours):
    distances = {word: np.abs(np.array(value) - colour).sum() for word, value in colours.items()}
    return min(distances, key=distances.get)


def test_words_say_what_is_drawn(crowd):
    tones = list(persons.SKIN_TONES)
    for person in crowd:
        words, look = person.words, person.look
        assert nearest(look.hair, persons.HAIR_COLOURS) == words.hair or words.hair is None or words.hair in (
            "brown", "dark brown", "auburn",
        )  # fmt: skip
        assert abs(tones.index(nearest(look.skin, persons.SKIN_TONES)) - tones.index(words.skin)) <= 1
        assert nearest(look.shirt, persons.COLOURS) == words.shirt
        assert (words.shirt_second is None) == (look.shirt_pattern == 0)
        assert words.glasses != person.hidden[GLASSES] and (person.spectacles is None) != words.glasses
        assert person.hidden[HAIR] == (words.hair is None) == (words.hair_style == persons.BALD)
        assert person.hidden[LONG_HAIR] != (words.hair_style == persons.LONG)
        assert (look.beard > 0.6, look.beard > 0) == (words.beard == "beard", words.beard is not None)
        assert not (person.woman and words.beard)
    assert len({person.words.hair_style for person in crowd}) == 5


def test_recogniser_tells_them_apart(head, detector):
    """Two photos of each under other light, pose and smile, seen by SFace."""
    renderer, seen = Renderer(head, 256, 256), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        person = persons.sample_person(head, rng)
        for _ in range(2):
            (face,) = detector.look(make_photo(head, renderer, person, rng).frames)
            seen.append(face.embedding / np.linalg.norm(face.embedding))
    likeness = np.array(seen) @ np.array(seen).T
    own = np.array([likeness[2 * i, 2 * i + 1] for i in range(5)])
    likeness[np.kron(np.eye(5), np.ones((2, 2))) > 0] = -1
    assert own.min() > 0.55
    assert (own > likeness.reshape(5, 2, 10).max((1, 2))).all()  # the nearest of ten is the other photo
