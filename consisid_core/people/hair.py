"""Hair as a cap over the scalp: where it can grow, and how high it stands on one person."""

from __future__ import annotations

import numpy as np

from . import surface
from .compiled import compiled

_FULL = 0.022  # metres above the hairline where hair has its full height
_HIDDEN = -0.002  # where none grows, the cap lies under the skin
_LOWEST_LINE = ([0, 30, 52, 72, 92, 130, 180], [0.775, 0.775, 0.765, 0.730, 0.715, 0.640, 0.630])


def cap(template: np.ndarray, skin_triangles: np.ndarray, ears: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the skin where hair can grow.

    Args:
        template: [N, 3] vertices.
        skin_triangles: [M, 3].
        ears: [N] 0..1, of `Head.zones`.

    Returns:
        triangles: [K, 3] indices into `roots`.
        roots: [R] the vertices of the skin that the cap copies.
    """
    x, y, z = template.T.astype(np.float64)
    lowest = np.interp(np.degrees(np.arctan2(abs(x), -(y + 0.045))), *_LOWEST_LINE)
    grows = (z > lowest) & (ears < 0.65)
    triangles = skin_triangles[grows[skin_triangles].any(1)]
    roots = np.unique(triangles)
    return np.searchsorted(roots, triangles), roots


@compiled
def heights(places, ears, look, height, sides):
    """[R] float32 height of the cap over each root, in metres.

    Args:
        places: [R, 3] roots on the template.
        ears: [R] 0..1.
        look: of the person.
        height: of the hair on top, in metres.
        sides: height of the hair beside and behind, as a share of `height`.
    """
    result = np.empty(len(places), np.float32)
    for i in range(len(places)):
        x, y, z = places[i, 0], places[i, 1], places[i, 2]
        share = surface.smooth_step(-0.002, _FULL, surface.above_hairline(x, y, z, look))
        share *= 1 - min(1.5 * ears[i], 1.0)
        top = surface.smooth_step(0.755, 0.815, z)
        result[i] = height * share * (sides + (1 - sides) * top) if share > 0.02 else _HIDDEN
    return result
