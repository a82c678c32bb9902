"""From photos of one person to a Face."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch

from ..errors import ConsisIDError
from ..types import Face
from .align import align_photo
from .detector import FaceDetector
from .drawing import draw_detections
from .parsing import BiSeNet, keep_background, whiten_background
from .photo import Photo, cut_off_hint, to_pixels
from .quality import quality_hints
from .same_person import SAME_PERSON, disagreeing_photos
from .selection import choose_face, order_faces

log = logging.getLogger("consisid")


def analyze_photos(
    detector: FaceDetector,
    parser: BiSeNet | None,
    images: torch.Tensor,
    selection: str,
    face_index: int,
    on_photo: Callable[[], None] = lambda: None,
) -> tuple[Face, torch.Tensor]:
    """The chosen face of each photo.

    Logs a warning for whatever may spoil the likeness in a photo, and one that names the photos of someone else.

    Args:
        detector: finds and recognises faces.
        parser: whitens everything but the person's head, on the device of its weights; None leaves the crop as it is.
        images: [B, H, W, C] photos of one person, 0..1; C as in `to_pixels`.
        selection: the rule that puts the faces of a photo into order (`SELECTIONS`).
        face_index: which of them in that order, from 0.
        on_photo: called after each photo; it may raise.

    Returns:
        face: Face of B photos.
        detections: [B, H, W, 3] float32, 0..1: the photos with every face drawn in, numbered in their order.

    Raises:
        ConsisIDError: no photo, or, naming the photo, one that is unusable or shows no such face.
    """
    if len(images) == 0:
        raise ConsisIDError("image is an empty batch: no photo arrived from the node before.")
    faces, drawings = [], []
    for number, image in enumerate(images, start=1):
        name = f"Photo {number} of {len(images)}"
        try:
            face, drawing = _analyze_photo(detector, parser, Photo(to_pixels(image), name), selection, face_index)
        except ConsisIDError as error:
            raise ConsisIDError(f"{name} ({image.shape[1]}x{image.shape[0]}): {error}") from None
        faces.append(face)
        drawings.append(drawing)
        on_photo()
    face = Face(**{field.name: torch.cat([getattr(face, field.name) for face in faces]) for field in fields(Face)})
    _warn_of_strangers(face)
    return face, torch.cat(drawings)


def _analyze_photo(detector, parser, photo, selection, face_index):
    """(Face of this photo alone, [1, H, W, 3] its detections)."""
    ordered = order_faces(detector.detect(photo), selection, photo.size)
    chosen = choose_face(ordered, face_index, "" if ordered else cut_off_hint(photo.pixels))
    crop, alignment = align_photo(photo, chosen)
    hints = quality_hints(photo, chosen)
    if len(ordered) > 1:
        log.info("%s shows %d faces: taking number %d by %s.", photo.name, len(ordered), face_index, selection)
    for hint in hints:
        log.warning("%s: %s", photo.name, hint)
    crop = _to_tensor(crop).movedim(-1, 1)
    colour, gray = whiten_background(parser, crop) if parser else keep_background(crop)
    face = Face(
        embedding=torch.from_numpy(chosen.embedding)[None],
        landmarks=torch.from_numpy(chosen.landmarks)[None],
        bbox=torch.from_numpy(chosen.bbox)[None],
        score=torch.tensor([chosen.score]),
        image=colour.movedim(1, -1),
        gray_image=gray.movedim(1, -1),
        alignment=torch.from_numpy(alignment)[None],
    )
    return face, _to_tensor(draw_detections(photo.pixels, ordered, face_index))


def _warn_of_strangers(face):
    apart = disagreeing_photos(face.embedding)
    if not apart:
        return
    scores = ", ".join(f"photo {number} ({cosine:.2f})" for number, cosine in apart)
    count = len(face.embedding)
    if len(apart) == count:
        finding = f"The {count} photos differ, no two seem to show the same person"
    else:
        finding = f"Of the {count} photos, some do not seem to show the person of the others"
    log.warning(
        "%s: %s; one person has a cosine of %.1f or more. All are used, the first for shape, the mean of all for "
        "detail: take out photos of others, or choose another face by selection and face_index.",
        finding, scores, SAME_PERSON,
    )  # fmt: skip


def _to_tensor(picture: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [1, H, W, 3] in 0..1."""
    return torch.from_numpy(picture).float().div(255).unsqueeze(0)
