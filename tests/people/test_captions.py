"""The grammar."""

import re

import numpy as np
import pytest
from consisid_pack.consisid_core.people import person as persons
from consisid_pack.consisid_core.people.captions import caption
from consisid_pack.consisid_core.people.head_data import ANCESTRIES
from consisid_pack.consisid_core.people.motion import ACTIONS
from consisid_pack.consisid_core.people.person import Words
from consisid_pack.consisid_core.people.scene import Background, sample_scene

WORDS = Words("old woman", "tan", "red", "long", "blue", "orange", None, None, True)
WALL = Background("plain", ("orange", "teal"))


def all_captions(words=WORDS, wall=WALL, action="nod", seeds=60):
    return {caption(words, wall, action, np.random.default_rng(seed)) for seed in range(seeds)}


def test_colours_stand_beside_their_nouns():
    for text in all_captions():
        for phrase in (
            "an old woman",
            "tan skin",
            "long red hair",
            "an orange shirt",
            "an orange background",
            "glasses",
        ):
            assert phrase in text
        assert text.count("orange") == 2 and "teal" not in text


def test_order_varies():
    texts = all_captions()
    assert len(texts) > 12
    order = {tuple(sorted(("skin", "hair", "shirt", "background"), key=text.index)) for text in texts}
    assert len(order) >= 6


@pytest.mark.parametrize("action", [*ACTIONS, None])
def test_actions(action):
    for text in all_captions(action=action):
        said = [words for words in ACTIONS.values() if words in text]
        assert said == ([ACTIONS[action]] if action else [])
        assert not re.search(r"\s\s|,,|, ,|\.$", text)


def test_what_is_not_there_is_not_said():
    bald = Words("young man", "light", None, "bald", "brown", "red", "white", "beard", False)
    for text in all_captions(bald):
        assert "a bald head" in text and "hair" not in text and "glasses" not in text
        assert "a beard" in text and "a red and white shirt" in text


def test_walls():
    for kind, words in {
        "gradient": "an orange and teal gradient", "stripes": "orange and teal stripes",
        "dots": "an orange wall with teal dots",
    }.items():  # fmt: skip
        assert all(f"in front of {words}" in text for text in all_captions(wall=Background(kind, ("orange", "teal"))))


def test_small_vocabulary_and_no_ancestry(people):
    vocabulary, longest = set(), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        action = [*ACTIONS, None][seed % 13]
        text = caption(people[seed % 8].words, sample_scene(rng).background, action, rng)
        words = re.findall(r"[a-z-]+", text)
        vocabulary |= set(words)
        longest = max(longest, len(words))
    assert longest <= 36 and len(vocabulary) < 100
    told = " ".join(vocabulary | set(persons.SKIN_TONES))
    assert not any(word in told for word in (*ANCESTRIES, "black skin", "white skin", "ethnic", "race"))
