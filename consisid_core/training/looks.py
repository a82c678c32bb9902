"""Looking for the person in the frames of a video, and choosing the frames that become references."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import ConsisIDError
from ..evaluation.video import read_picture
from ..face.align import align_photo
from ..face.detected_face import DetectedFace
from ..face.detector import FaceDetector
from ..face.photo import Photo
from ..face.same_person import SAME_PERSON, disagreeing_photos
from .manifest import Refused

LOOKS = 32
"""Frames of a video, evenly spread, in which the person is looked for before a clip is chosen."""

_RIVAL = 0.25  # A second face of this part of the area is no passer-by.
_MOST_RIVALRY = 0.1  # part of the looks
_MOST_STRANGERS = 0.25  # part of the looks


@dataclass(frozen=True, eq=False)
class Look:
    """What one frame or photo shows of the person."""

    position: int
    """Of the frame in its video; -1 of a photo."""
    face: DetectedFace
    crop: np.ndarray
    """[512, 512, 3] uint8, aligned (`align_photo`)."""
    alignment: np.ndarray
    """[2, 3] pixels of the frame -> pixels of the crop."""
    has_rival: bool
    """Whether another face is about as large."""


Find = Callable[[Photo], list[DetectedFace]]
"""`FaceDetector.detect`, or `glance` of one."""


def glance(detector: FaceDetector) -> Find:
    """`FaceDetector.detect` without its retries, which take long and warn: enough where others see the face."""
    return lambda photo: [face.mapped(photo.from_small) for face in detector.look(photo.small)]


def look(find: Find, pixels: np.ndarray, position: int) -> Look | None:
    """The largest face of a frame, found once for embedding and crop; None where there is none that can be aligned.

    Args:
        find: gives the faces.
        pixels: [H, W, 3] uint8 RGB.
        position: of the frame, -1 of a photo.
    """
    photo = Photo(pixels, f"frame {position}" if position >= 0 else "the photo")
    faces = sorted(find(photo), key=lambda face: -face.area)
    if not faces:
        return None
    try:
        crop, alignment = align_photo(photo, faces[0])
    except ConsisIDError:  # Its landmarks fall on one spot.
        return None
    has_rival = len(faces) > 1 and faces[1].area >= _RIVAL * faces[0].area
    return Look(position, faces[0], crop, alignment, has_rival)


def spread(positions: Sequence[int], count: int) -> list[int]:
    """At most so many of the positions, the first and the last among them, evenly spread."""
    return [positions[i] for i in np.unique(np.linspace(0, len(positions) - 1, count).round().astype(int))]


def of_one_person(looks: Sequence[Look]) -> list[Look]:
    """The looks without the few that seem to show somebody else.

    Raises:
        Refused: there is none, or they show two people, together or after each other.
    """
    if not looks:
        raise Refused(
            "no face", "no face was found in it. Use a video in which the face is large and turned to the camera."
        )
    rivals = [look.position for look in looks if look.has_rival]
    if len(rivals) > _MOST_RIVALRY * len(looks):
        raise Refused(
            "two people",
            f"{len(rivals)} of {len(looks)} frames show two large faces, first frame {rivals[0]}. Use a video of one "
            "person, or crop it.",
        )
    strangers = {number - 1 for number, _ in disagreeing_photos(_embeddings(looks))}
    if len(strangers) > _MOST_STRANGERS * len(looks):
        raise Refused(
            "two people",
            f"the faces in {len(strangers)} of {len(looks)} frames do not seem to be one person's. Cut it into videos "
            "of one person each.",
        )
    return [look for i, look in enumerate(looks) if i not in strangers]


def best(looks: Sequence[Look], count: int) -> list[Look]:
    """At most so many, spread over time, each the one of its part that the detector is surest of."""
    parts = np.array_split(np.arange(len(looks)), min(count, len(looks)) or 1)
    return [max((looks[i] for i in part), key=lambda look: look.face.score) for part in parts if len(part)]


def look_at_photos(
    detector: FaceDetector, paths: Iterable[Path], known: Sequence[Look]
) -> tuple[list[Look], list[str]]:
    """The person in photos besides the video.

    Args:
        detector: finds and recognises faces.
        paths: of the photos.
        known: looks at the video.

    Returns:
        (looks, a sentence for each photo that is left out).
    """
    mean = torch.nn.functional.normalize(_embeddings(known), dim=-1).mean(dim=0)
    looks, problems = [], []
    for path in paths:
        try:
            found = look(detector.detect, read_picture(path, upright=True), -1)
        except ConsisIDError as error:
            problems.append(str(error))
            continue
        if found is None:
            problems.append(f"The photo {path} shows no face and is left out.")
        elif (cosine := torch.cosine_similarity(_embeddings([found])[0], mean, dim=0).item()) < SAME_PERSON:
            problems.append(
                f"The photo {path} does not seem to show the person of the video (cosine {cosine:.2f}) and is left out."
            )
        else:
            looks.append(found)
    return looks, problems


def _embeddings(looks):
    return torch.from_numpy(np.stack([look.face.embedding for look in looks]))
