"""Which of the faces in a photo is meant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import ConsisIDError
from .detected_face import DetectedFace

_GOOD_PHOTO = (
    "Use a sharp, evenly lit photo of a person who looks towards the camera, with the face at least 100 px wide, "
    "upright and not hidden, and some space around the head."
)
_ALSO_TRIED = (
    "Neither a grey border around the photo (padding), nor a smaller detector input where the detector takes one, "
    "nor a lower threshold brought one up."
)

# Each rule gives a sort key: the first face has the smallest.
_RULES = {
    "largest": lambda face, middle: -face.area,
    "most_central": lambda face, middle: math.dist(face.center, middle),
    "left_to_right": lambda face, middle: face.center[0],
    "right_to_left": lambda face, middle: -face.center[0],
    "top_to_bottom": lambda face, middle: face.center[1],
    "highest_score": lambda face, middle: -face.score,
}

SELECTIONS = tuple(_RULES)
"""Rules of `order_faces`. The reference embeds the largest face (diffusers `consisid_utils.py:151-156`)."""


def order_faces(faces: Sequence[DetectedFace], selection: str, photo_size: tuple[int, int]) -> list[DetectedFace]:
    """Puts faces in order by a rule, so that "face number 2" means something to a user.

    Args:
        faces: faces of one photo.
        selection: one of `SELECTIONS`. Size is box area, place is the middle of the box.
        photo_size: (height, width) of the photo in pixels (`Photo.size`).

    Returns:
        The faces, the first under the rule first.

    Raises:
        ConsisIDError: unknown rule.
    """
    if selection not in _RULES:
        raise ConsisIDError(f"There is no face selection {selection!r}; choose one of {', '.join(SELECTIONS)}.")
    rule, (height, width) = _RULES[selection], photo_size
    return sorted(faces, key=lambda face: rule(face, (width / 2, height / 2)))


def choose_face(ordered: Sequence[DetectedFace], index: int, no_face_hint: str = "") -> DetectedFace:
    """Chooses one of the faces of a photo.

    Args:
        ordered: the faces in the order of `order_faces`.
        index: which one, from 0.
        no_face_hint: what the error adds if there are none, after a space.

    Raises:
        ConsisIDError: no faces, or an index beyond them. The caller adds which photo it was.
    """
    if not ordered:
        raise ConsisIDError(f"No face found. {_ALSO_TRIED} {_GOOD_PHOTO}{no_face_hint}")
    if not 0 <= index < len(ordered):
        raise ConsisIDError(
            f"face_index {index} does not exist: found {len(ordered)} face{'s' * (len(ordered) > 1)}, "
            f"so it must be at least 0 and below {len(ordered)}."
        )
    return ordered[index]
