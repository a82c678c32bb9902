"""Label maps, numbered as BiSeNet's 19 classes are (facexlib), so that the pack's list of what is whitened fits."""

from __future__ import annotations

import numpy as np

from . import surface
from .compiled import compiled
from .head import EARS, GLASSES, LIPS, MOUTH
from .head_data import LASHES, LEFT_EYE, RIGHT_EYE, TEETH, TONGUE
from .head_data import SKIN as SKIN_PART
from .shade import interpolate

BACKGROUND, SKIN, BROW, EYE, SPECTACLES, EAR, INNER_MOUTH, LIP, NECK, CLOTH, HAIR = 0, 1, 2, 4, 6, 7, 11, 12, 14, 16, 17
"""Both brows, eyes, ears and lips take the number of BiSeNet's first; the nose is skin."""

FACE = (SKIN, BROW, EYE, SPECTACLES, INNER_MOUTH, LIP)
"""Labels of the face, without hair, ears and neck."""


@compiled
def _on_skin(x, y, z, lips, ears, mouth, look):
    """Label of a point of the body's surface."""
    if z < surface.collar(x, y, look):
        return CLOTH
    if z < 0.612 or (z < 0.66 and y > -0.055):
        return NECK
    if ears > 0.4:
        return EAR
    if mouth > 0.5:
        return INNER_MOUTH
    if lips > 0.5:
        return LIP
    along = surface.along_brow(x, look)
    if y < -0.085 and -0.05 < along < 1.05:
        if abs(z - surface.brow_middle(along, look)) < 1.3 * look.brow_thickness:
            return BROW
    if z > 0.62 and look.hair_cover > 0.5:
        if surface.smooth_step(-0.003, 0.010, surface.above_hairline(x, y, z, look)) > 0.5:
            return HAIR
    return SKIN


@compiled
def _fill(triangle, second, third, triangles, parts, places, zones, look, supersampling, labels):
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            v, u = row * supersampling + supersampling // 2, column * supersampling + supersampling // 2
            k = triangle[v, u]
            if k < 0:
                labels[row, column] = BACKGROUND
                continue
            part = parts[k]
            if part == SKIN_PART:
                a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
                wb, wc = second[v, u], third[v, u]
                wa = 1 - wb - wc
                labels[row, column] = _on_skin(
                    interpolate(places, 0, a, b, c, wa, wb, wc),
                    interpolate(places, 1, a, b, c, wa, wb, wc),
                    interpolate(places, 2, a, b, c, wa, wb, wc),
                    interpolate(zones, LIPS, a, b, c, wa, wb, wc),
                    interpolate(zones, EARS, a, b, c, wa, wb, wc),
                    interpolate(zones, MOUTH, a, b, c, wa, wb, wc),
                    look,
                )
            elif part == LEFT_EYE or part == RIGHT_EYE or part == LASHES:
                labels[row, column] = EYE
            elif part == TEETH or part == TONGUE:
                labels[row, column] = INNER_MOUTH
            elif part == GLASSES:
                labels[row, column] = SPECTACLES
            else:
                labels[row, column] = HAIR


def label_map(buffers, head, look: surface.Look, supersampling: int) -> np.ndarray:
    """uint8 [H, W] labels of what the buffers show: one sample in the middle of each pixel.

    Args:
        buffers: raster.Buffers that were drawn.
        head: Head.
        look: of the person.
        supersampling: samples of a pixel on a side.
    """
    height, width = buffers.triangle.shape
    labels = np.empty((height // supersampling, width // supersampling), np.uint8)
    _fill(
        buffers.triangle, buffers.second, buffers.third, head.triangles, head.parts, head.places, head.zones, look,
        supersampling, labels,
    )  # fmt: skip
    return labels
