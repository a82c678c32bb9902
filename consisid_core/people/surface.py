"""What lies where on the head, in metres of the template: hairline, brows, neckline. Painting and labels share it."""

from __future__ import annotations

import math
from typing import NamedTuple

from .compiled import compiled

Colour = tuple[float, float, float]
"""Linear red, green, blue, 0..1."""


class Look(NamedTuple):
    """All that is painted on a person. Lengths are metres, strengths 0..1."""

    skin: Colour
    lips: Colour
    iris: Colour
    hair: Colour
    brow: Colour
    shirt: Colour
    shirt_second: Colour
    eyeshadow: Colour
    glasses: Colour
    blush: float
    freckles: float
    spots: float
    """Seed of freckles and moles."""
    wrinkles: float
    beard: float
    gloss: float
    eyeliner: float
    eyeshadow_strength: float
    brow_thickness: float
    brow_height: float
    brow_arch: float
    brow_length: float
    brow_strength: float
    hair_cover: float
    """How much of the scalp's skin the hair hides."""
    hair_curls: float
    """0 strands, 1 curls."""
    hairline: float
    """Height of the line over the forehead, from the usual one."""
    hairline_temples: float
    """How far it recedes beside the forehead."""
    hairline_peak: float
    """How far it comes down in the middle of the forehead."""
    hairline_slant: float
    """How much higher it is on the person's left than in the middle, per metre: parted hair."""
    hairline_nape: float
    """How far down the neck hair grows."""
    sideburns: float
    shirt_pattern: int
    """One of PLAIN_SHIRT, RINGED, STRIPED, PANELLED."""
    neckline: float
    """Height of the collar."""
    neckline_slope: float
    """0 round, 1 a deep V."""


PLAIN_SHIRT, RINGED, STRIPED, PANELLED = range(4)


@compiled
def smooth_step(low, high, x):
    """0 below `low`, 1 above `high`, smooth between."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@compiled
def above_hairline(x, y, z, look):
    """Metres above the line where hair begins; negative below it."""
    angle = math.degrees(math.atan2(abs(x), -(y + 0.045)))  # 0 in front, 180 behind
    forehead = 0.793 + look.hairline
    temple = forehead + look.hairline_temples
    ear = 0.752 - look.sideburns
    behind = 0.672 - look.hairline_nape
    if angle < 30:
        line = forehead + 0.004 * (1 - angle / 30)
    elif angle < 52:
        line = forehead + (temple - forehead) * (angle - 30) / 22
    elif angle < 72:
        line = temple + (ear - temple) * (angle - 52) / 20
    elif angle < 92:
        line = ear + (0.735 - ear) * (angle - 72) / 20
    elif angle < 130:
        line = 0.735 + (behind - 0.735) * (angle - 92) / 38
    else:
        line = behind - 0.012 * (angle - 130) / 50
    if angle < 60:
        line += look.hairline_slant * x - look.hairline_peak * math.exp(-((x / 0.012) ** 2))
    return z - line


@compiled
def along_brow(x, look):
    """0 at the inner end of the nearer brow, 1 at the outer one."""
    return (abs(x) - 0.010) / (0.042 * look.brow_length)


@compiled
def brow_middle(along, look):
    """Height of the brow's middle line."""
    arch = math.sin(min(max(along, 0.0), 1.0) * 2.6)
    return 0.748 + look.brow_height + look.brow_arch * arch - 0.003 * along


@compiled
def collar(x, y, look):
    """Height up to which the shirt reaches."""
    edge = look.neckline
    if y < -0.02:
        edge -= look.neckline_slope * max(0.0, 0.055 - abs(x))
    return edge + 0.6 * max(0.0, abs(x) - 0.075)
