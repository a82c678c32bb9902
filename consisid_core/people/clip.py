"""One clip or one photo of a person: pixels, labels, landmarks, caption and facts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .captions import caption
from .head import Head
from .motion import ACTIONS, sample_moment, sample_motion
from .person import Person
from .renderer import Renderer
from .scene import PLAIN, Scene, sample_scene

FRAMES = 17
FPS = 8
"""Frames a second, as ConsisID's videos have."""


@dataclass(frozen=True)
class Clip:
    """A clip, or a photo with one frame less dimension."""

    frames: np.ndarray
    """[T, H, W, 3] uint8 RGB; [H, W, 3] of a photo."""
    labels: np.ndarray
    """[T, H, W] uint8, numbered as in `labels`."""
    landmarks: np.ndarray
    """[T, 5, 2] float32 (x, y) in pixels: eyes, nose, corners of the mouth, from the picture's left to its right."""
    caption: str
    facts: dict
    """What is to be seen, in words: action, background, background_colours, and all of `person.Words`."""


def make_clip(
    head: Head,
    renderer: Renderer,
    person: Person,
    rng: np.random.Generator,
    frames: int = FRAMES,
    action: str | None = None,
) -> Clip:
    """Draws a clip of a person in a new scene.

    Args:
        head: the geometry that `renderer` and `person` were made with.
        renderer: of the size of the frames.
        person: who is shown.
        rng: decides scene, action and the course of it.
        frames: how many, 1 or more.
        action: a key of `motion.ACTIONS`; a random one without it.
    """
    scene = sample_scene(rng)
    action = action or str(rng.choice(list(ACTIONS)))
    background = scene.background.draw(renderer.height, renderer.width)
    moments = sample_motion(action, frames, rng)
    drawings = [renderer.draw(person, scene, moment, background) for moment in moments]
    pictures, labels, landmarks = (np.stack(parts) for parts in zip(*drawings, strict=True))
    return Clip(pictures, labels, landmarks, *_said(person, scene, action, rng))


def make_photo(head: Head, renderer: Renderer, person: Person, rng: np.random.Generator) -> Clip:
    """Draws a photo of a person in a new scene, with the face within 20 degrees of the camera. As `make_clip`."""
    scene = sample_scene(rng)
    drawing = renderer.draw(person, scene, sample_moment(rng))
    return Clip(*drawing, *_said(person, scene, None, rng))


def _said(person: Person, scene: Scene, action, rng):
    background = scene.background
    colours = background.colours[:1] if background.kind == PLAIN else background.colours
    facts = {"action": action, "background": background.kind, "background_colours": list(colours)}
    return caption(person.words, background, action, rng), {**facts, **asdict(person.words)}
