"""Spectacles: two rims, a bridge and two temples, fitted to a face."""

from __future__ import annotations

import math

import numpy as np

_RIM, _BRIDGE, _TEMPLE = range(3)
_ROUND, _THICK = 20, 5  # points around a rim and around its tube
_TUBE = 0.0016


def _layout():
    """Where each vertex sits (piece, side, place along it, place across), and the triangles, with both sides."""
    spots, triangles = [], []

    def strip(first, rows, columns, closed):
        for row in range(rows if closed else rows - 1):
            for column in range(columns if closed else columns - 1):
                below, beside = (row + 1) % rows, (column + 1) % columns
                a, b, c, d = (
                    first + r * columns + k for r, k in ((row, column), (below, column), (below, beside), (row, beside))
                )
                triangles.extend([(a, b, c), (a, c, d), (a, c, b), (a, d, c)])

    for side in (1, -1):
        first = len(spots)
        spots.extend((_RIM, side, 2 * math.pi * i / _ROUND, 2 * math.pi * j / _THICK)
                     for i in range(_ROUND) for j in range(_THICK))  # fmt: skip
        strip(first, _ROUND, _THICK, closed=True)
    for piece, side, rows in ((_BRIDGE, 1, 2), (_TEMPLE, 1, 4), (_TEMPLE, -1, 4)):
        first = len(spots)
        spots.extend((piece, side, i / (rows - 1), j) for i in range(rows) for j in range(2))
        strip(first, rows, 2, closed=False)
    return spots, np.array(triangles, np.int32)


SPOTS, TRIANGLES = _layout()


def fit(face: np.ndarray, eye: np.ndarray, radius: float, squareness: float) -> np.ndarray:
    """Places spectacles on a face at rest.

    Args:
        face: [N, 3] vertices of the skin without the ears.
        eye: [3] centre of the left eye.
        radius: of the rims, in metres.
        squareness: 2 for round rims, 4 for nearly square ones.

    Returns:
        [V, 3] float32 vertices for `TRIANGLES`.
    """
    across, back, up = face[:, 0], face[:, 1], face[:, 2]
    before_eye = (abs(abs(across) - eye[0]) < 0.022) & (abs(up - eye[2]) < 0.02) & (back < eye[1] + 0.02)
    nose = (abs(across) < 0.006) & (abs(up - eye[2] - 0.004) < 0.006) & (back < eye[1] + 0.02)
    beside_ear = (abs(back - eye[1] - 0.07) < 0.02) & (abs(up - eye[2]) < 0.02)
    front = min(back[before_eye].min(), back[nose].min() + 0.004) - 0.003
    ear = abs(across[beside_ear]).max(initial=0.071) + 0.002
    vertices = np.empty((len(SPOTS), 3), np.float32)
    for i, (piece, side, along, thick) in enumerate(SPOTS):
        if piece == _RIM:
            cos, sin = math.cos(along), math.sin(along)
            stretch = (abs(cos) ** squareness + abs(sin) ** squareness) ** (-1 / squareness)
            tube = _TUBE * math.cos(thick)
            vertices[i] = (
                side * (eye[0] + 0.001) + (radius * stretch + tube) * cos,
                front + _TUBE * math.sin(thick),
                eye[2] - 0.001 + (0.86 * radius * stretch + tube) * sin,
            )
        elif piece == _BRIDGE:
            vertices[i] = (
                (2 * along - 1) * (eye[0] - radius + 0.001), front - 0.001, eye[2] + 0.004 + (2 * thick - 1) * 0.0015,
            )  # fmt: skip
        else:
            rim = eye[0] + radius
            vertices[i] = (
                side * (rim + (ear - rim) * min(along * 2.2, 1)),
                front + along * 0.085,
                eye[2] + 0.004 + (2 * thick - 1) * 0.0018,
            )
    return vertices
