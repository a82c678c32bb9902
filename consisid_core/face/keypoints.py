"""The optional key-point picture: five coloured dots joined to the nose, on black.

Only checkpoints trained with `is_kps` look at it; the released one does not.
"""

from __future__ import annotations

import math

import numpy as np

_COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
_LIMBS = (0, 1, 3, 4)
_NOSE = 2
_LIMB_HALF_WIDTH = 4
_LIMB_BRIGHTNESS = 0.6
_DOT_RADIUS = 10


def draw_keypoints(landmarks: np.ndarray, size: int = 512) -> np.ndarray:
    """Draws the five landmarks the way the reference does (diffusers `pipeline_consisid.py:98-139`).

    The reference hands over landmarks in photo pixels, although training used crop pixels. Map them first:
    `draw_keypoints(map_points(alignment, landmarks))`.

    Args:
        landmarks: [5, 2] (x, y) in pixels of the crop: left eye, right eye, nose, left and right mouth corner.
        size: width and height of the square picture in pixels.

    Returns:
        [size, size, 3] uint8 RGB. Landmarks outside the picture are cut off.
    """
    import cv2

    landmarks = np.asarray(landmarks)
    picture = np.zeros((size, size, 3), np.uint8)
    for limb in _LIMBS:
        start, nose = landmarks[limb], landmarks[_NOSE]
        dx, dy = start - nose
        middle_x, middle_y = (start + nose) / 2
        polygon = cv2.ellipse2Poly(
            (int(middle_x), int(middle_y)),
            (int((dx * dx + dy * dy) ** 0.5 / 2), _LIMB_HALF_WIDTH),
            int(math.degrees(math.atan2(dy, dx))),
            0,
            360,
            1,
        )
        cv2.fillConvexPoly(picture, polygon, _COLORS[limb])
    picture = (picture * _LIMB_BRIGHTNESS).astype(np.uint8)
    for (x, y), color in zip(landmarks, _COLORS, strict=True):
        cv2.circle(picture, (int(x), int(y)), _DOT_RADIUS, color, -1)
    return picture


def map_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Moves points through an affine matrix, e.g. photo landmarks into the aligned crop.

    Args:
        matrix: [2, 3] affine matrix.
        points: [N, 2] (x, y).

    Returns:
        [N, 2] float32.
    """
    matrix = np.asarray(matrix, np.float64)
    return (np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
