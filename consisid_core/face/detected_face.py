"""What the detector and the recogniser say of one face."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .keypoints import map_points


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """One face in a picture, in pixels of that picture. Two are equal only if they are one and the same."""

    bbox: np.ndarray
    """[4] float32 x1, y1, x2, y2; may reach beyond the picture."""
    landmarks: np.ndarray
    """[5, 2] float32 (x, y): left eye, right eye, nose, left and right mouth corner, as seen in the picture."""
    score: float
    """Detector confidence, 0..1."""
    embedding: np.ndarray
    """[512] float32 raw recogniser output (not normalised)."""

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the middle of the box."""
        x1, y1, x2, y2 = self.bbox.tolist()
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) of the box."""
        x1, y1, x2, y2 = self.bbox.tolist()
        return x2 - x1, y2 - y1

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return math.prod(self.size)

    def mapped(self, matrix: np.ndarray) -> DetectedFace:
        """The same face in pixels of another copy of the picture.

        Args:
            matrix: [2, 3] affine map from this picture to the other, without rotation (`Photo.from_small`).
        """
        return replace(
            self,
            bbox=map_points(matrix, self.bbox.reshape(2, 2)).reshape(4),
            landmarks=map_points(matrix, self.landmarks),
        )
