"""Where a person is: light, camera and background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .person import COLOURS
from .shade import Light

PLAIN, GRADIENT, STRIPES, DOTS = "plain", "gradient", "stripes", "dots"
BACKGROUNDS = {PLAIN: 0.6, GRADIENT: 0.2, STRIPES: 0.1, DOTS: 0.1}
"""Kinds and their shares."""

_DISTANCE = 1.15  # metres to the face
_NEARER = 0.22  # share of the distance that an approaching or leaving camera covers


@dataclass(frozen=True)
class Background:
    """A wall behind the person."""

    kind: str
    colours: tuple[str, str]
    """Words; a plain wall has the first."""

    def draw(self, height: int, width: int) -> np.ndarray:
        """[H, W, 3] float32 0..1, a little darker towards the edges."""
        first, second = (0.92 * np.array(COLOURS[word], np.float32) + 0.04 for word in self.colours)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        y, x = (y + 0.5) / height, (x + 0.5) / height
        if self.kind == PLAIN:
            amount = np.zeros_like(x)
        elif self.kind == GRADIENT:
            amount = y
        elif self.kind == STRIPES:
            amount = 0.5 + 0.5 * np.tanh(4 * np.sin(8 * math.pi * x))
        else:
            from_dot = np.hypot((4 * x) % 1 - 0.5, (4 * y) % 1 - 0.5)
            amount = 1 / (1 + np.exp(30 * (from_dot - 0.28)))
        vignette = 1 - 0.2 * ((x - x.mean()) ** 2 + (y - 0.5) ** 2)
        wall = (first + (second - first) * amount[..., None]) * vignette[..., None]
        return wall.astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """What stays the same through a clip."""

    light: Light
    background: Background
    camera_angles: tuple[float, float]
    """Degrees: to the person's left, and up."""
    field_of_view: float
    """Degrees from top to bottom."""

    def camera(self, face_height: float, approach: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Place of the camera and the point it looks at.

        Args:
            face_height: metres.
            approach: -1 farther to 1 nearer.
        """
        side, up = np.radians(self.camera_angles)
        target = np.array([0, -0.05, face_height])
        distance = _DISTANCE * (1 - _NEARER * approach)
        ahead = np.array([math.sin(side) * math.cos(up), -math.cos(side) * math.cos(up), math.sin(up)])
        return target + distance * ahead, target


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws light, background and camera. Every camera is nearly the same: where everything stands is what a small net
    learns last."""
    side, up = math.radians(rng.uniform(-60, 60)), math.radians(rng.uniform(10, 55))
    warmth, key, ambient = rng.uniform(-0.06, 0.06), rng.uniform(0.55, 0.85), rng.uniform(0.46, 0.62)
    light = Light(
        direction=_unit(math.sin(side), -math.cos(side), math.tan(up)),
        key=(key * (1 + warmth), key, key * (1 - warmth)),
        ambient=(ambient, ambient, 1.04 * ambient),
        fill_direction=_unit(-math.sin(side), -0.6, 0.1),
        fill=float(rng.uniform(0.10, 0.24)),
    )
    kind = str(rng.choice(list(BACKGROUNDS), p=list(BACKGROUNDS.values())))
    first, second = (str(word) for word in rng.choice(list(COLOURS), 2, replace=False))
    return Scene(
        light=light,
        background=Background(kind, (first, second)),
        camera_angles=(float(rng.uniform(-3, 3)), float(rng.uniform(-1.5, 1.5))),
        field_of_view=float(rng.uniform(16.6, 17.4)),
    )


def _unit(x, y, z):
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length
