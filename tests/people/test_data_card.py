from consisid_pack.consisid_core.people import data_card

PERSONS = [
    {"ancestry": [0.7, 0.2, 0.1], "woman": True, "years": 31.5, "skin": "tan", "hair": "red", "hair_style": "long"},
    {"ancestry": [0.1, 0.3, 0.6], "woman": False, "years": 38.0, "skin": "tan", "hair": None, "hair_style": "bald"},
    {"ancestry": [0.4, 0.5, 0.1], "woman": False, "years": 77.0, "skin": "light", "hair": "red", "hair_style": "short"},
]
FACTS = [
    {"action": "nod", "background": "plain", "shirt": "blue"},
    {"action": "nod", "background": "dots", "shirt": "red"},
]
SETTINGS = {"clips": 1, "width": 96, "height": 64, "frames": 17, "seed": 4}


def test_ancestry_counts():
    counts = data_card.ancestry_counts(PERSONS)
    assert {name: most for name, (most, _) in counts.items()} == {"african": 1, "asian": 1, "caucasian": 1}
    assert round(counts["african"][1], 3) == 0.4


def test_card_counts_everything():
    text = data_card.text(PERSONS, FACTS, SETTINGS)
    for line in (
        "| african | 1 | 0.400 |", "| women | 1 |", "| men | 2 |", "| 30 to 39 | 2 |", "| tan | 2 |", "| none | 1 |",
        "| nod | 2 |", "| dots | 1 |", "| blue | 1 |",
    ):  # fmt: skip
        assert line in text
    assert "3 people who do not exist, in 2 clips of 17 frames at 96x64" in text and "seed 4" in text
    assert "25 to 80 years" in text
