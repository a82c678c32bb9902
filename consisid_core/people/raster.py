"""A depth buffer of triangles, and what it tells about ambient light."""

from __future__ import annotations

import math

import numpy as np

from . import geometry
from .compiled import compiled
from .head_data import LASHES, LONG_HAIR

NOTHING = -1
"""Triangle of a pixel that shows the background."""

_FAR = 1e9


class Buffers:
    """For each pixel the depth, the triangle and the weights of its second and third corner."""

    def __init__(self, height: int, width: int) -> None:
        self.depth = np.empty((height, width), np.float32)
        self.triangle = np.empty((height, width), np.int32)
        self.second = np.zeros((height, width), np.float32)
        self.third = np.zeros((height, width), np.float32)

    def draw(self, points: np.ndarray, triangles: np.ndarray, parts: np.ndarray, hidden: np.ndarray) -> None:
        """Clears the buffers and draws.

        Args:
            points: [N, 3] float32: column, row and depth of the vertices in pixels of these buffers.
            triangles: [M, 3] int32.
            parts: [M] int8, the part of each triangle.
            hidden: [parts] bool: parts that are left out.
        """
        self.depth.fill(_FAR)
        self.triangle.fill(NOTHING)
        _draw(points, triangles, parts, hidden, self.depth, self.triangle, self.second, self.third)


@compiled
def _draw(points, triangles, parts, hidden, depth, triangle, second, third):
    height, width = depth.shape
    for k in range(triangles.shape[0]):
        part = parts[k]
        if hidden[part]:
            continue
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        x0, y0, z0 = points[a, 0], points[a, 1], points[a, 2]
        x1, y1, z1 = points[b, 0] - x0, points[b, 1] - y0, points[b, 2] - z0
        x2, y2, z2 = points[c, 0] - x0, points[c, 1] - y0, points[c, 2] - z0
        area = x1 * y2 - x2 * y1
        # Seen from behind: only thin strips have two sides.
        if area == 0 or (area > 0 and part != LASHES and part != LONG_HAIR):
            continue
        left = max(int(math.ceil(x0 + min(0, x1, x2) - 0.5)), 0)
        right = min(int(math.floor(x0 + max(0, x1, x2) - 0.5)), width - 1)
        top = max(int(math.ceil(y0 + min(0, y1, y2) - 0.5)), 0)
        bottom = min(int(math.floor(y0 + max(0, y1, y2) - 0.5)), height - 1)
        per_area = 1.0 / area
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5 - x0, y + 0.5 - y0
                w1 = (px * y2 - x2 * py) * per_area
                w2 = (x1 * py - px * y1) * per_area
                if w1 < 0 or w2 < 0 or w1 + w2 > 1:
                    continue
                z = z0 + w1 * z1 + w2 * z2
                if z < depth[y, x]:
                    depth[y, x], triangle[y, x], second[y, x], third[y, x] = z, k, w1, w2


def orthographic(vertices: np.ndarray, direction: np.ndarray, centre: np.ndarray, size: int, extent: float):
    """Vertices seen from far away along a direction.

    Args:
        vertices: [N, 3] float32.
        direction: unit vector from `centre` to the viewer.
        centre: the point in the middle of the picture.
        size: pixels on a side.
        extent: metres on a side.

    Returns:
        points: [N, 3] float32 for `Buffers.draw`.
        matrix: [3, 4] float32, world -> points.
    """
    eye = centre + 2 * direction
    axes = geometry.view_axes(eye, centre)
    matrix = np.zeros((3, 4))
    matrix[:, :3] = axes * np.array([[size / extent], [-size / extent], [1]])
    matrix[:, 3] = (size / 2, size / 2, 0) - (matrix[:, :3] * eye).sum(1)
    matrix = matrix.astype(np.float32)
    return _apply(vertices, matrix), matrix


@compiled
def _apply(vertices, matrix):
    moved = np.empty_like(vertices)
    for i in range(vertices.shape[0]):
        for row in range(3):
            moved[i, row] = (
                matrix[row, 0] * vertices[i, 0]
                + matrix[row, 1] * vertices[i, 1]
                + matrix[row, 2] * vertices[i, 2]
                + matrix[row, 3]
            )
    return moved


def open_sky(mesh, triangles: np.ndarray, parts: np.ndarray, hidden: np.ndarray, directions: int = 32) -> np.ndarray:
    """How much of the light from all around reaches each vertex, by depth buffers from many directions.

    Returns:
        [N] float32, 0 (enclosed) to 1 (free).
    """
    rng, size, centre = np.random.default_rng(0), 192, np.array([0, -0.05, 0.65])
    buffers = Buffers(size, size)
    seen, total = np.zeros(len(mesh.vertices)), np.full(len(mesh.vertices), 1e-6)
    for number in range(directions):
        direction = rng.normal(size=3)
        direction /= np.sqrt((direction**2).sum())
        direction[2] = abs(direction[2]) * (1 if number % 4 else -1)  # Light comes from above mostly.
        points, _ = orthographic(mesh.vertices, direction, centre, size, 0.7)
        buffers.draw(points, triangles, parts, hidden)
        columns, rows = np.clip(points[:, :2], 0, size - 1).astype(int).T
        facing = np.clip((mesh.normals * direction).sum(1), 0, 1)
        seen += facing * (points[:, 2] < buffers.depth[rows, columns] + 0.006)
        total += facing
    return np.clip(seen / total, 0, 1).astype(np.float32)
