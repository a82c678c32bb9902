"""Captions: a small grammar over what is to be seen. The order varies; every colour stands beside its noun."""

from __future__ import annotations

import numpy as np

from .motion import ACTIONS
from .person import BALD, Words
from .scene import DOTS, GRADIENT, PLAIN, Background


def caption(words: Words, background: Background, action: str | None, rng: np.random.Generator) -> str:
    """One sentence without a full stop, e.g. "a young woman in a red shirt, with light skin and long brown hair, nods".

    Args:
        words: of the person.
        background: behind the person.
        action: a key of `motion.ACTIONS`; None for a photo.
        rng: decides the order.
    """
    features = [f"{words.skin} skin", _hair(words)]
    if words.beard:
        features.append("a beard" if words.beard == "beard" else "stubble")
    rng.shuffle(features)
    with_ = "with " + _list(features)
    wearing = [f"in {_article(_shirt(words))} shirt"]
    if words.glasses:
        wearing.append("wearing glasses")
    attributes = [with_, *wearing]
    rng.shuffle(attributes)
    person = f"{_article(words.who)} {', '.join(attributes)}"
    camera = action is not None and action.startswith("camera")
    does = ""
    if action is not None:
        does = ", looks into the camera" if camera else f", {ACTIONS[action]}"
    place = f"in front of {_place(background)}"
    if rng.random() < 0.3:
        text = f"{place}, {person}{does}"
    else:
        text = f"{person}{does} {place}" if does else f"{person}, {place}"
    return f"{text}, {ACTIONS[action]}" if camera else text


def _hair(words):
    if words.hair_style == BALD:
        return "a bald head"
    return f"{words.hair_style} {words.hair} hair"


def _shirt(words):
    return f"{words.shirt} and {words.shirt_second}" if words.shirt_second else words.shirt


def _place(background):
    first, second = background.colours
    if background.kind == PLAIN:
        return f"{_article(first)} background"
    if background.kind == GRADIENT:
        return f"{_article(first)} and {second} gradient"
    if background.kind == DOTS:
        return f"{_article(first)} wall with {second} dots"
    return f"{first} and {second} stripes"


def _article(text):
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _list(parts):
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
