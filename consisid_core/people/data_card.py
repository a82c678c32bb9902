"""Counts what a set of synthetic people holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .head_data import ANCESTRIES
from .person import OLDEST, YOUNGEST


def ancestry_counts(persons: Sequence[dict]) -> dict[str, tuple[int, float]]:
    """For each ancestry: how many people have the most of it, and its mean share.

    Args:
        persons: the contents of person.json of each.
    """
    shares = np.array([person["ancestry"] for person in persons])
    most = Counter(shares.argmax(1).tolist())
    return {name: (most[i], float(shares[:, i].mean())) for i, name in enumerate(ANCESTRIES)}


def text(persons: Sequence[dict], facts: Sequence[dict], settings: dict) -> str:
    """The data card.

    Args:
        persons: the contents of person.json of each person.
        facts: the lines of facts.jsonl.
        settings: of the set, by name.
    """
    size = f"{settings['width']}x{settings['height']}"
    women = sum(person["woman"] for person in persons)
    ages = Counter(int(person["years"]) // 10 * 10 for person in persons)
    lines = [
        "# Synthetic people",
        "",
        f"{len(persons)} people who do not exist, in {len(facts)} clips of {settings['frames']} frames at {size}.",
        f"Drawn by `python -m consisid_core.people` from seed {settings['seed']}. No photo of a real person took part.",
        "",
        "The shapes of heads come from MakeHuman's human model (CC0), all else from a program. All are grown up:",
        f"{YOUNGEST} to {OLDEST} years.",
        "",
        "Ancestry only spreads the shapes of heads: each head mixes three of MakeHuman's, none preferred. Skin tone is",
        "drawn apart from it. Captions never name it.",
        "",
        _table("ancestry", ("people with most of it", "mean share"), {
            name: (count, f"{share:.3f}") for name, (count, share) in ancestry_counts(persons).items()
        }),
        _table("gender", ("people",), {"women": (women,), "men": (len(persons) - women,)}),
        _table("years", ("people",), {f"{age} to {age + 9}": (ages[age],) for age in sorted(ages)}),
        *(_counts(name, "people", (person[name] for person in persons)) for name in ("skin", "hair_style", "hair")),
        *(_counts(name, "clips", (fact[name] for fact in facts)) for name in ("action", "background", "shirt")),
    ]  # fmt: skip
    return "\n".join(lines)


def _counts(name, unit, values):
    counts = Counter("none" if value is None else value for value in values)
    return _table(name.replace("_", " "), (unit,), {word: (count,) for word, count in counts.most_common()})


def _table(name, columns, rows):
    head = f"| {name} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    return head + "".join(f"| {word} | {' | '.join(map(str, values))} |\n" for word, values in rows.items())
