"""Draws a grown-up person: shape of the head, skin, hair, eyes, beard, glasses, clothes, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import hair, raster
from .head import EARS, GLASSES, HAIR, PARTS, Head, Rest
from .head_data import ANCESTRIES, LASHES, LONG_HAIR
from .surface import PANELLED, PLAIN_SHIRT, RINGED, STRIPED, Colour, Look

COLOURS = {
    "red": (0.75, 0.12, 0.12), "orange": (0.90, 0.48, 0.12), "yellow": (0.90, 0.80, 0.20),
    "green": (0.15, 0.55, 0.22), "teal": (0.10, 0.55, 0.55), "blue": (0.15, 0.28, 0.75),
    "purple": (0.45, 0.18, 0.60), "pink": (0.92, 0.55, 0.68), "brown": (0.42, 0.27, 0.16),
    "black": (0.07, 0.07, 0.08), "grey": (0.50, 0.50, 0.52), "white": (0.93, 0.93, 0.93),
}  # fmt: skip
"""Of shirts and backgrounds."""

HAIR_COLOURS = {
    "black": (0.05, 0.045, 0.045), "dark brown": (0.16, 0.10, 0.07), "brown": (0.32, 0.20, 0.12),
    "auburn": (0.42, 0.17, 0.09), "red": (0.62, 0.25, 0.10), "blond": (0.78, 0.62, 0.36),
    "platinum blond": (0.90, 0.84, 0.68), "grey": (0.55, 0.54, 0.53), "white": (0.88, 0.87, 0.85),
}  # fmt: skip
_HAIR_SHARES = (4, 4, 3, 1.5, 1.2, 2, 0.8, 0.3, 0.1)
_OLD_HAIR_SHARES = (2, 2, 2, 0.7, 0.5, 1, 0.8, 6, 6)

EYE_COLOURS = {
    "dark brown": (0.14, 0.09, 0.06), "brown": (0.28, 0.16, 0.09), "hazel": (0.42, 0.33, 0.16),
    "green": (0.30, 0.46, 0.28), "blue": (0.28, 0.45, 0.68), "grey": (0.48, 0.53, 0.56),
}  # fmt: skip

SKIN_TONES = {
    "very pale": (0.93, 0.76, 0.66), "light": (0.90, 0.70, 0.58), "tan": (0.80, 0.58, 0.44),
    "brown": (0.66, 0.45, 0.32), "dark brown": (0.48, 0.31, 0.22), "very dark": (0.32, 0.20, 0.15),
}  # fmt: skip
"""From the palest on; tones between two of them take the nearer one's word."""

BALD, BUZZ_CUT, SHORT, CURLY, LONG = "bald", "buzz-cut", "short", "curly", "long"
HAIR_STYLES = {"man": (0.13, 0.20, 0.45, 0.14, 0.08), "woman": (0.01, 0.04, 0.35, 0.15, 0.45)}
"""Shares of the five styles."""

YOUNGEST, OLDEST = 25, 80
"""Years."""

_LIPSTICKS = ((0.62, 0.14, 0.17), (0.62, 0.30, 0.32), (0.48, 0.14, 0.22), (0.70, 0.38, 0.36))
_EYESHADOWS = ((0.35, 0.25, 0.50), (0.20, 0.35, 0.50), (0.45, 0.25, 0.15), (0.50, 0.20, 0.30))
_SHAPE_SPREADS = {
    "head": 0.27, "forehead": 0.30, "eyebrows": 0.36, "l-eye": 0.28, "nose": 0.36, "mouth": 0.28, "l-ear": 0.30,
    "chin": 0.34, "l-cheek": 0.34,
}  # fmt: skip
# These break a face early.
_TOUCHY = {
    "head-trans-forward", "head-trans-up", "head-angle-out", "nose-trans-forward", "nose-trans-up", "mouth-trans-up",
    "mouth-trans-forward", "mouth-scale-depth-incr", "chin-jaw-drop-incr", "l-eye-push1-out", "l-eye-push2-out",
    "head-age-incr", "l-eye-height1-incr", "l-eye-height2-incr", "l-eye-height3-incr",
}  # fmt: skip
_TOUCHY_SHARE = 0.35
_STRONGEST = 0.85


@dataclass(frozen=True)
class Words:
    """What can be said about a person. None where there is nothing to say."""

    who: str
    """E.g. "young woman"."""
    skin: str
    hair: str | None
    """Colour; None for a bald head."""
    hair_style: str
    eyes: str
    shirt: str
    shirt_second: str | None
    """Second colour of a patterned shirt."""
    beard: str | None
    """"beard" or "stubble"."""
    glasses: bool


@dataclass(frozen=True)
class Person:
    """One person as the renderer needs them."""

    words: Words
    look: Look
    rest: Rest
    hair: np.ndarray
    """Heights of the hair, for `Head.pose`."""
    spectacles: np.ndarray | None
    hidden: np.ndarray
    """[PARTS] bool: what this person does not wear."""
    sky: np.ndarray
    """[N] float32 from `raster.open_sky`."""
    ancestry: tuple[float, ...]
    """Shares of `ANCESTRIES`. Chosen by us to spread the shapes of heads; captions never name it."""
    years: float
    woman: bool


def sample_person(head: Head, rng: np.random.Generator) -> Person:
    """Draws a person of 25 to 80 years.

    Ancestry is a random mixture of all three, none preferred, and skin tone is drawn apart from it.
    """
    woman = bool(rng.random() < 0.5)
    away = float(rng.beta(1, 6))  # from the most masculine or feminine head
    femininity = 1 - away if woman else away
    old = float(rng.beta(0.9, 1.3)) * (OLDEST - YOUNGEST) / (90 - YOUNGEST)
    years = YOUNGEST + old * (90 - YOUNGEST)
    ancestry = tuple(float(share) for share in rng.dirichlet([0.35] * len(ANCESTRIES)))
    rest = head.rest(femininity, old, ancestry, _changes(head, rng))
    style = str(rng.choice([BALD, BUZZ_CUT, SHORT, CURLY, LONG], p=HAIR_STYLES["woman" if woman else "man"]))
    beard = None if woman else str(rng.choice(["", "stubble", "beard"], p=[0.5, 0.25, 0.25])) or None
    wears_glasses = bool(rng.random() < 0.2)
    skin_word, skin = _skin(rng)
    shares = np.array(_OLD_HAIR_SHARES if years > 62 else _HAIR_SHARES)
    hair_word, hair_colour = _near(rng, HAIR_COLOURS, 0.08, shares / shares.sum())
    eye_word, iris = _near(rng, EYE_COLOURS, 0.05)
    shirt_words = [str(word) for word in rng.choice(list(COLOURS), 2, replace=False)]
    pattern = int(rng.choice([PLAIN_SHIRT, RINGED, STRIPED, PANELLED], p=[0.7, 0.12, 0.08, 0.1]))
    look = _look(rng, woman, years, style, beard, skin, hair_colour, iris, shirt_words, pattern)
    heights = {BALD: 0, BUZZ_CUT: 0.003, SHORT: rng.uniform(0.008, 0.022), CURLY: rng.uniform(0.02, 0.05), LONG: 0.010}
    spectacles = None
    if wears_glasses:
        spectacles = head.fit_glasses(rest, rng.uniform(0.020, 0.025), float(rng.choice([2.0, 4.0])))
    hidden = np.zeros(PARTS, bool)
    hidden[[LONG_HAIR, HAIR, LASHES, GLASSES]] = (style != LONG, style == BALD, look.eyeliner < 0.75, not wears_glasses)
    words = Words(
        who=f"{'young' if years < 40 else 'middle-aged' if years < 62 else 'old'} {'woman' if woman else 'man'}",
        skin=skin_word,
        hair=None if style == BALD else hair_word,
        hair_style=style,
        eyes=eye_word,
        shirt=shirt_words[0],
        shirt_second=None if pattern == PLAIN_SHIRT else shirt_words[1],
        beard=beard,
        glasses=wears_glasses,
    )
    roots = head.template[head.hair_roots]
    sides = float(rng.uniform(0.3, 1)) if style == SHORT else 1.0
    grown = hair.heights(roots, head.zones[head.hair_roots, EARS], look, float(heights[style]), sides)
    calm = head.pose(rest, hair=grown, spectacles=spectacles)
    sky = raster.open_sky(calm, head.triangles, head.parts, hidden | np.isin(np.arange(PARTS), [LASHES, GLASSES]))
    return Person(words, look, rest, grown, spectacles, hidden, sky, ancestry, years, woman)


def _changes(head, rng):
    """Local changes of the face, the same on both sides."""
    changes = {}
    for name in head.local_names:
        if name.startswith("r-"):
            continue
        place = "-".join(name.split("-")[: 2 if name.startswith("l-") else 1])
        spread = _SHAPE_SPREADS[place] * (_TOUCHY_SHARE if name in _TOUCHY else 1)
        changes[name] = float(np.clip(rng.normal(0, spread), -_STRONGEST, _STRONGEST))
        if name.startswith("l-"):
            changes["r-" + name[2:]] = changes[name]
    return changes


def _colour(values) -> Colour:
    red, green, blue = (float(value) for value in np.clip(values, 0, 1))
    return red, green, blue


def _near(rng, colours, spread, shares=None):
    """A word, and a colour near the word's: lighter or darker, and a little of another hue."""
    word = str(rng.choice(list(colours), p=shares))
    return word, _colour(np.array(colours[word]) * (1 + rng.normal(0, spread) + rng.normal(0, 0.02, 3)))


def _skin(rng):
    tones = np.array(list(SKIN_TONES.values()))
    tone = rng.uniform(0, len(tones) - 1)
    below = min(int(tone), len(tones) - 2)
    colour = tones[below] + (tones[below + 1] - tones[below]) * (tone - below)
    return list(SKIN_TONES)[round(tone)], _colour(np.maximum(colour * (1 + rng.normal(0, 0.02, 3)), 0.08))


def _look(rng, woman, years, style, beard, skin, hair_colour, iris, shirt_words, pattern):
    skin_, hair_ = np.array(skin), np.array(hair_colour)
    lipstick = woman and rng.random() < 0.45
    lips = _LIPSTICKS[rng.integers(len(_LIPSTICKS))] if lipstick else skin_ * (0.88, 0.60, 0.60)
    brow = np.minimum(hair_ * 0.8, skin_ * 0.75)
    frame = rng.choice([0.05, 0.15, 0.45])
    receding = 0.012 * rng.random() if not woman and years > 50 else 0
    return Look(
        skin=skin,
        lips=_colour(lips),
        iris=iris,
        hair=hair_colour,
        brow=_colour(brow),
        shirt=_colour(np.array(COLOURS[shirt_words[0]]) * rng.uniform(0.85, 1.1)),
        shirt_second=COLOURS[shirt_words[1]],
        eyeshadow=_EYESHADOWS[rng.integers(len(_EYESHADOWS))],
        glasses=_colour((frame, 0.8 * frame, 0.7 * frame)),
        blush=float(rng.uniform(0.1, 0.6)),
        freckles=float(rng.uniform(0.2, 0.7)) if rng.random() < 0.12 else 0.0,
        spots=float(rng.integers(1, 10000)),
        wrinkles=float(max(0, (years - 45) / 35) * rng.uniform(0.5, 1)),
        beard={None: 0.0, "stubble": float(rng.uniform(0.25, 0.45)), "beard": float(rng.uniform(0.8, 1))}[beard],
        gloss=0.3 if lipstick else float(rng.uniform(0.05, 0.25)),
        eyeliner=float(rng.uniform(0.3, 1)) if woman else 0.0,
        eyeshadow_strength=float(rng.uniform(0.2, 0.6)) if woman and rng.random() < 0.4 else 0.0,
        brow_thickness=float(0.0035 + rng.uniform(-0.0013, 0.0022) - 0.0006 * woman),
        brow_height=float(rng.uniform(-0.004, 0.005)),
        brow_arch=float(0.003 + rng.uniform(-0.002, 0.005)),
        brow_length=float(rng.uniform(0.85, 1.15)),
        brow_strength=float(rng.uniform(0.55, 1)),
        hair_cover={BALD: 0.1, BUZZ_CUT: 0.75}.get(style, 1.0),
        hair_curls=1.0 if style == CURLY else float(rng.uniform(0, 0.45)),
        hairline=float(rng.uniform(-0.006, 0.010) + receding),
        hairline_temples=float(rng.uniform(-0.002, 0.012)),
        hairline_peak=float(rng.uniform(0, 0.008)) if rng.random() < 0.4 else 0.0,
        hairline_slant=float(rng.uniform(-0.25, 0.25)) if rng.random() < 0.5 else 0.0,
        hairline_nape=float(rng.uniform(0, 0.02)),
        sideburns=float(rng.uniform(0, 0.02)),
        shirt_pattern=pattern,
        neckline=float(rng.uniform(0.57, 0.60)),
        neckline_slope=float(rng.choice([0, 0.6, 1.0])),
    )
