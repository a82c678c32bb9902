"""Rotations, skinning, normals and projection. Compiled, and free of BLAS, so that threads never change a bit."""

from __future__ import annotations

import math

import numpy as np

from .compiled import compiled


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """[3, 3] turn of a head by degrees: yaw to the person's left, pitch up, roll to the person's right shoulder."""
    y, p, r = math.radians(yaw), math.radians(-pitch), math.radians(roll)
    about_z = np.array([[math.cos(y), -math.sin(y), 0], [math.sin(y), math.cos(y), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_y = np.array([[math.cos(r), 0, math.sin(r)], [0, 1, 0], [-math.sin(r), 0, math.cos(r)]])
    return multiply(multiply(about_z, about_x), about_y)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of two small matrices."""
    return (a[:, :, None] * b[None]).sum(1)


def view_axes(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[3, 3] rows right, up, forward of somebody at `eye` who looks at `target`; z is up in the world."""
    forward = (target - eye) / np.sqrt(((target - eye) ** 2).sum())
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.sqrt((right**2).sum())
    return np.stack([right, np.cross(right, forward), forward])


@compiled
def to_view(points, axes, eye):
    """[N, 3] float32 points along the axes of `view_axes`, counted from `eye`."""
    seen = np.empty_like(points)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - eye[0], points[i, 1] - eye[1], points[i, 2] - eye[2]
        for row in range(3):
            seen[i, row] = axes[row, 0] * x + axes[row, 1] * y + axes[row, 2] * z
    return seen


@compiled
def skin(vertices, weights, transforms):
    """[N, 3] vertices moved by the bones' [B, 4, 4] transforms, mixed by weights [N, B]."""
    moved = np.empty_like(vertices)
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        a = b = c = np.float32(0)
        for bone in range(weights.shape[1]):
            weight = weights[i, bone]
            if weight > 0:
                t = transforms[bone]
                a += weight * (t[0, 0] * x + t[0, 1] * y + t[0, 2] * z + t[0, 3])
                b += weight * (t[1, 0] * x + t[1, 1] * y + t[1, 2] * z + t[1, 3])
                c += weight * (t[2, 0] * x + t[2, 1] * y + t[2, 2] * z + t[2, 3])
        moved[i, 0], moved[i, 1], moved[i, 2] = a, b, c
    return moved


@compiled
def add_offsets(vertices, indices, offsets, amount):
    """Moves some of the vertices in place."""
    for i in range(len(indices)):
        for axis in range(3):
            vertices[indices[i], axis] += amount * offsets[i, axis]


@compiled
def normals(vertices, triangles):
    """[N, 3] unit normals of vertices: the mean of their triangles' weighted by area."""
    total = np.zeros_like(vertices)
    for k in range(triangles.shape[0]):
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        ux, uy, uz = (
            vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2],
        )  # fmt: skip
        wx, wy, wz = (
            vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2],
        )  # fmt: skip
        x, y, z = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for i in (a, b, c):
            total[i, 0] += x
            total[i, 1] += y
            total[i, 2] += z
    for i in range(total.shape[0]):
        length = math.sqrt(total[i, 0] ** 2 + total[i, 1] ** 2 + total[i, 2] ** 2) + 1e-12
        for axis in range(3):
            total[i, axis] /= length
    return total
