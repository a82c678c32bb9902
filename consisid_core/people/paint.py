"""Colours of skin, eyes, hair and clothes at a point of the head, before any light falls on them."""

from __future__ import annotations

import math

from . import surface
from .compiled import compiled
from .surface import smooth_step

EYE_CENTRE = (0.0309, -0.1245, 0.7284)
"""Of the left eye, in the template."""

SOFT = 0.25
"""How far light creeps round an edge under the skin."""


@compiled
def _hash(i, j, k):
    """0..1, the same for the same whole numbers."""
    h = (i * 374761393 + j * 668265263 + k * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0


@compiled
def noise(x, y, z):
    """Smooth noise in space, -0.5..0.5, with features about 1 wide."""
    i, j, k = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
    u, v, w = x - i, y - j, z - k
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                share = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                total += share * _hash(i + a, j + b, k + c)
    return total - 0.5


@compiled
def _bump(x, width):
    return math.exp(-x * x / (2 * width * width))


@compiled
def mix(colour, other, amount):
    """The colour where `amount` is 0, the other where it is 1."""
    return (
        colour[0] + (other[0] - colour[0]) * amount,
        colour[1] + (other[1] - colour[1]) * amount,
        colour[2] + (other[2] - colour[2]) * amount,
    )


@compiled
def scaled(colour, red, green, blue):
    """The colour times a factor for each channel."""
    return colour[0] * red, colour[1] * green, colour[2] * blue


@compiled
def skin(x, y, z, lips, eyelids, ears, mouth, look):
    """Colour, shine and soft-light share of the body's surface: skin and what lies on it, lips, scalp and shirt."""
    across = abs(x)
    if z < surface.collar(x, y, look):
        return shirt(x, y, z, look), 0.03, 0.0
    coarse, fine = noise(60 * x + 3, 60 * y, 60 * z), noise(300 * x, 300 * y, 300 * z)
    tone = 1 + 0.10 * coarse + 0.05 * fine
    colour, shine = scaled(look.skin, tone, tone, tone), 0.12
    if y < -0.06 or ears > 0.1:
        cheek = math.exp(-((across - 0.042) ** 2 + (z - 0.688) ** 2) / (2 * 0.014**2))
        nose = math.exp(-(across**2 + (z - 0.692) ** 2) / (2 * 0.010**2))
        red = look.blush * (cheek + 0.8 * nose + 0.6 * ears)
        colour = scaled(colour, 1.0, 1 - 0.28 * red, 1 - 0.22 * red)
    if y < -0.06:
        colour = _face_details(colour, x, y, z, eyelids, look)
        colour = _beard(colour, x, y, z, lips, ears, fine, look)
    amount = smooth_step(0.25, 0.75, lips)
    colour, shine = mix(colour, look.lips, amount), shine + amount * look.gloss
    colour = mix(colour, (0.30, 0.08, 0.08), mouth)
    colour = mix(colour, look.brow, _brow(x, y, z, fine, look))
    if z > 0.62:
        rough = 0.006 * coarse + 0.012 * noise(60 * math.atan2(x, -(y + 0.045)), 25 * z, 1.5)
        covered = smooth_step(-0.003, 0.010, surface.above_hairline(x, y, z, look) + rough)
        covered *= (1 - min(2 * ears, 1.0)) * look.hair_cover
        colour, shine = mix(colour, look.hair, covered), shine * (1 - 0.5 * covered)
    return colour, shine, SOFT


@compiled
def _face_details(colour, x, y, z, eyelids, look):
    """Rings under the eyes, make-up, freckles, moles and wrinkles."""
    across = abs(x)
    from_eye = across - 0.031
    if y < -0.09:
        ring = _bump(from_eye, 0.012) * _bump(z - 0.712, 0.005) * (0.08 + 0.22 * look.wrinkles)
        colour = scaled(colour, 1 - ring, 1 - ring, 1 - 0.8 * ring)
        shadow = _bump(from_eye, 0.014) * _bump(z - 0.741, 0.007) * look.eyeshadow_strength
        colour = mix(colour, look.eyeshadow, shadow)
    line = eyelids * (0.2 + 0.3 * look.eyeliner)
    colour = scaled(colour, 1 - line, 1 - line, 1 - line)
    if look.freckles > 0 and y < -0.08 and 0.63 < z < 0.80:
        spot = smooth_step(0.20, 0.30, noise(420 * x + look.spots, 420 * y, 420 * z)) * look.freckles
        spot *= _bump(across - 0.02, 0.035) * _bump(z - 0.700, 0.025)
        colour = scaled(colour, 1 - 0.35 * spot, 1 - 0.5 * spot, 1 - 0.55 * spot)
    seed = int(look.spots)
    for mole in range(3):
        if y < -0.07 and _hash(seed, mole, 13) > 0.6:
            mole_x, mole_z = 0.11 * (_hash(seed, mole, 5) - 0.5), 0.635 + 0.13 * _hash(seed, mole, 9)
            dark = 1 - smooth_step(0.0010, 0.0020, math.sqrt((x - mole_x) ** 2 + (z - mole_z) ** 2))
            colour = scaled(colour, 1 - 0.5 * dark, 1 - 0.55 * dark, 1 - 0.55 * dark)
    if look.wrinkles > 0:
        lines = smooth_step(0.6, 1.0, math.sin(900 * (z + 0.003 * math.sin(90 * across))))
        crease = 0.25 * lines * _bump(z - 0.774, 0.012) * _bump(across, 0.03)
        beside_mouth = across - (0.020 + 0.35 * (0.690 - z))
        height = smooth_step(0.635, 0.65, z) * (1 - smooth_step(0.685, 0.70, z))
        crease += 0.3 * _bump(beside_mouth, 0.0022) * height
        dark = 1 - look.wrinkles * crease
        colour = scaled(colour, dark, dark, dark)
    return colour


@compiled
def _beard(colour, x, y, z, lips, ears, fine, look):
    if look.beard <= 0 or z < 0.585:
        return colour
    across = abs(x)
    edge = 0.672 + 0.35 * max(across - 0.030, 0.0)
    jaw = smooth_step(0.0, 0.018, edge - z) * smooth_step(0.585, 0.605, z) * (1 - smooth_step(-0.045, -0.035, y))
    moustache = _bump(z - 0.672, 0.006) * (1 - smooth_step(0.026, 0.034, across))
    amount = max(jaw, moustache) * look.beard * (1 - smooth_step(0.2, 0.6, lips)) * (0.8 + 0.8 * fine) * (1 - ears)
    return mix(colour, look.hair, min(max(amount, 0.0), 0.95))


@compiled
def _brow(x, y, z, fine, look):
    """0..1: how much of the skin the brow hides."""
    along = surface.along_brow(x, look)
    if y >= -0.085 or not 0.73 < z < 0.79 or not -0.15 < along < 1.15:
        return 0.0
    thickness = look.brow_thickness * (1.0 - 0.55 * max(along, 0.0))
    amount = _bump(z - surface.brow_middle(along, look), thickness)
    amount *= smooth_step(-0.15, 0.08, along) * (1 - smooth_step(0.85, 1.15, along))
    return min(1.15 * amount * (0.95 + 0.5 * fine), 1.0) * look.brow_strength


@compiled
def shirt(x, y, z, look):
    """Colour of the shirt, darker along the collar."""
    colour = look.shirt
    pattern = look.shirt_pattern
    if (
        (pattern == surface.RINGED and math.sin(260 * z) > 0.2)
        or (pattern == surface.STRIPED and math.sin(260 * x) > 0.4)
        or (pattern == surface.PANELLED and abs(x) < 0.035 and y < 0)
    ):
        colour = look.shirt_second
    tone = 1 + 0.15 * noise(60 * x + 3, 60 * y, 60 * z)
    if z > surface.collar(x, y, look) - 0.008:
        tone *= 0.75
    return scaled(colour, tone, tone, tone)


@compiled
def eye(x, y, z, look):
    """Colour of an eyeball: white, iris, pupil, and the shade of the upper lid."""
    ex, ey, ez = abs(x) - EYE_CENTRE[0], y - EYE_CENTRE[1], z - EYE_CENTRE[2]
    colour = (0.90, 0.88, 0.86)
    if ey < 0:
        off_axis = math.sqrt((ex * ex + ez * ez) / (ex * ex + ey * ey + ez * ez))
        t = off_axis / 0.46
        ring = (0.55 + 0.75 * smooth_step(0.35, 0.7, t)) * (1 - 0.5 * smooth_step(0.8, 1.0, t))
        colour = mix(colour, scaled(look.iris, ring, ring, ring), 1 - smooth_step(0.43, 0.50, off_axis))
        pupil = 1 - 0.95 * (1 - smooth_step(0.17, 0.22, off_axis))
        colour = scaled(colour, pupil, pupil, pupil)
    lid = 1 - 0.45 * smooth_step(0.0, 0.012, ez)
    return scaled(colour, lid, lid, lid)


@compiled
def strand(x, y, z, look):
    """-0.5..0.5: lightness of the hair at a point, along strands or in curls."""
    if look.hair_curls > 0.5:
        return noise(220 * x, 220 * y, 220 * z)
    return noise(26 * math.atan2(x, -(y + 0.045)), 14 * z, 0.5)
