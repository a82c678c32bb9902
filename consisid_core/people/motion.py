"""What a person does in a clip: for each frame the angles of the head, the face's actions and the camera's way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

ACTIONS = {
    "turn left": "turns the head to the left",
    "turn right": "turns the head to the right",
    "look up": "looks up",
    "look down": "looks down",
    "nod": "nods",
    "shake": "shakes the head",
    "tilt": "tilts the head",
    "talk": "talks",
    "smile": "smiles",
    "open mouth": "opens the mouth",
    "camera nearer": "the camera moves closer",
    "camera farther": "the camera moves away",
}
"""Action -> its words in a caption. Left and right are the person's: on the picture, a left turn goes to the right."""


@dataclass(frozen=True)
class Moment:
    """One frame."""

    angles: tuple[float, float, float]
    """Degrees of yaw, pitch and roll as in `geometry.rotation`."""
    face: dict[str, float] = field(default_factory=dict)
    """Facial action -> 0..1, for `Head.pose`."""
    gaze: tuple[float, float] = (0.0, 0.0)
    approach: float = 0.0
    """Of the camera, -1 farther to 1 nearer."""


def sample_moment(rng: np.random.Generator) -> Moment:
    """A still moment, as in a photo: the head within 20 degrees of the camera, often a smile."""
    angles = (float(rng.uniform(-20, 20)), float(rng.uniform(-10, 10)), float(rng.uniform(-8, 8)))
    smile, open_ = rng.uniform(0, 0.6), rng.uniform(0, 0.2) * (rng.random() < 0.3)
    return Moment(angles, {"eyeBlink": _OPEN_EYES, "mouthSmile": float(smile), "jawOpen": float(open_)})


_OPEN_EYES = 0.10  # MakeHuman's eyes stand wide open.


def sample_motion(action: str, frames: int, rng: np.random.Generator) -> list[Moment]:
    """The moments of a clip in which one thing happens.

    Args:
        action: a key of `ACTIONS`.
        frames: how many.
        rng: decides the posture at the start, the mood, the extent, and whether the person blinks.
    """
    yaw, pitch, roll = rng.normal(0, 1, 3) * (2, 1.5, 0.7)
    mood, extent = rng.uniform(0, 0.25), rng.uniform(0.9, 1.1)
    blinks, blink_time = rng.random() < 0.5, rng.uniform(0.2, 0.8)
    moments = []
    for number in range(frames):
        time = number / max(frames - 1, 1)
        so_far = time * time * (3 - 2 * time)
        turn, face, approach = _course(action, time, so_far, extent)
        blink = 0.8 * math.exp(-(((time - blink_time) / 0.07) ** 2)) if blinks else 0
        face = {"eyeBlink": _OPEN_EYES + blink, "mouthSmile": mood, **face}
        if action == "smile":
            face["mouthSmile"] = 0.5 * mood + face["mouthSmile"]
        angles = (float(yaw + turn[0]), float(pitch + turn[1]), float(roll + turn[2]))
        moments.append(Moment(angles, {name: float(amount) for name, amount in face.items()}, (0.0, 0.0), approach))
    return moments


def _course(action, time, so_far, extent):
    """Turn of the head, face and camera at a time of 0..1; `so_far` is how much of a single movement is done."""
    swing = math.sin(3 * math.pi * time)
    turn, face, approach = (0.0, 0.0, 0.0), {}, 0.0
    match action:
        case "turn left":
            turn = (extent * (36 * so_far - 8), 0, 0)
        case "turn right":
            turn = (-extent * (36 * so_far - 8), 0, 0)
        case "look up":
            turn = (0, 22 * extent * so_far, 0)
        case "look down":
            turn = (0, -22 * extent * so_far, 0)
        case "nod":
            turn = (0, 12 * extent * swing, 0)
        case "shake":
            turn = (20 * extent * swing, 0, 0)
        case "tilt":
            turn = (0, 0, 20 * extent * so_far)
        case "talk":
            face["jawOpen"] = 0.25 * extent * (1 - math.cos(6 * math.pi * time))
            face["mouthFunnel"] = 0.15 * (1 + math.sin(4 * math.pi * time))
        case "smile":
            face = {"mouthSmile": 0.85 * extent * so_far, "cheekSquint": 0.5 * so_far, "jawOpen": 0.12 * so_far}
        case "open mouth":
            face["jawOpen"] = 0.8 * extent * so_far
        case "camera nearer":
            approach = so_far
        case "camera farther":
            approach = -so_far
    return turn, face, approach
