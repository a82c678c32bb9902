"""Draws a person in a scene: the picture, its labels and the places of the five landmarks."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from . import geometry, labels, raster
from .head import Head
from .head_data import BONES, LASHES
from .motion import Moment
from .person import Person
from .scene import Scene
from .shade import shade

_SHADOW_CENTRE = np.array([0, -0.05, 0.66])
_SHADOW_EXTENT = 0.55  # metres
_SHADOW_SIZE = 192


class Drawing(NamedTuple):
    """One frame."""

    picture: np.ndarray
    """[H, W, 3] uint8 RGB."""
    labels: np.ndarray
    """[H, W] uint8, numbered as in `labels`."""
    landmarks: np.ndarray
    """[5, 2] float32 (x, y) in pixels: eyes, nose, corners of the mouth, from the picture's left to its right."""


class Renderer:
    """Draws frames of one size. It keeps buffers: one thread at a time."""

    def __init__(self, head: Head, height: int, width: int, supersampling: int = 2) -> None:
        """
        Args:
            head: the geometry.
            height, width: of the frames in pixels.
            supersampling: samples of a pixel on a side.
        """
        self.head, self.height, self.width, self.supersampling = head, height, width, supersampling
        self._buffers = raster.Buffers(height * supersampling, width * supersampling)
        self._shadow = raster.Buffers(_SHADOW_SIZE, _SHADOW_SIZE)

    def draw(self, person: Person, scene: Scene, moment: Moment, background: np.ndarray | None = None) -> Drawing:
        """Draws one frame.

        Args:
            person: who.
            scene: where.
            moment: the head and the face.
            background: [H, W, 3] float32 of `scene.background.draw`, for who draws many frames before it.
        """
        head = self.head
        if background is None:
            background = scene.background.draw(self.height, self.width)
        mesh = head.pose(
            person.rest, moment.angles, moment.face, moment.gaze, person.hair, person.spectacles
        )  # fmt: skip
        eye, target = scene.camera(person.rest.bones[BONES.index("head"), 2] + 0.005, moment.approach)
        points = self._project(mesh.vertices, eye, target, scene.field_of_view)
        self._buffers.draw(points, head.triangles, head.parts, person.hidden)
        to_map = self._cast_shadows(mesh, person, np.array(scene.light.direction))
        picture = np.empty((self.height, self.width, 3), np.float32)
        seen = (self._buffers.triangle, self._buffers.second, self._buffers.third)
        shade(
            *seen, head.triangles, head.parts, mesh.vertices, mesh.normals, head.places, head.zones, person.sky,
            person.look, eye.astype(np.float32), scene.light, to_map, self._shadow.depth, background,
            self.supersampling, picture,
        )  # fmt: skip
        return Drawing(
            (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8),
            labels.label_map(self._buffers, head, person.look, self.supersampling),
            points[head.landmarks, :2] / self.supersampling,
        )

    def _project(self, vertices, eye, target, field_of_view):
        """[N, 3] float32: column and row in the buffers' pixels, and metres from the camera."""
        height, width = self._buffers.depth.shape
        points = geometry.to_view(vertices, geometry.view_axes(eye, target), eye)
        focal = (height / 2) / math.tan(math.radians(field_of_view) / 2)
        points[:, 0] = points[:, 0] / points[:, 2] * focal + width / 2
        points[:, 1] = height / 2 - points[:, 1] / points[:, 2] * focal
        return points

    def _cast_shadows(self, mesh, person, direction):
        """Draws the key light's depth map; returns the way from the world into it."""
        points, to_map = raster.orthographic(
            mesh.vertices, direction, _SHADOW_CENTRE, _SHADOW_SIZE, _SHADOW_EXTENT
        )  # fmt: skip
        hidden = person.hidden.copy()
        hidden[LASHES] = True
        self._shadow.draw(points, self.head.triangles, self.head.parts, hidden)
        return to_map
