"""Light on the painted surface: the pixels of a picture."""

from __future__ import annotations

import math
from typing import NamedTuple

from . import paint
from .compiled import compiled
from .head import EARS, EYELIDS, GLASSES, LIPS, MOUTH
from .head_data import LASHES, LEFT_EYE, LONG_HAIR, RIGHT_EYE, SKIN, TEETH, TONGUE
from .surface import Colour


class Light(NamedTuple):
    """A key light that casts shadows, a weak fill light without, and light from all around."""

    direction: Colour
    """Unit vector to the key light: x to the person's left, y backwards, z up."""
    key: Colour
    ambient: Colour
    fill_direction: Colour
    fill: float


@compiled
def interpolate(values, column, a, b, c, wa, wb, wc):
    """A column of per-vertex values inside a triangle."""
    return wa * values[a, column] + wb * values[b, column] + wc * values[c, column]


@compiled
def _unit(x, y, z):
    scale = 1.0 / math.sqrt(x * x + y * y + z * z + 1e-12)
    return x * scale, y * scale, z * scale


@compiled
def _sunlit(x, y, z, to_map, shadow_map):
    """1 in the light, 0.25 in full shadow; soft edges by nine looks into the depth map of the key light."""
    column = to_map[0, 0] * x + to_map[0, 1] * y + to_map[0, 2] * z + to_map[0, 3]
    row = to_map[1, 0] * x + to_map[1, 1] * y + to_map[1, 2] * z + to_map[1, 3]
    depth = to_map[2, 0] * x + to_map[2, 1] * y + to_map[2, 2] * z + to_map[2, 3] - 0.011
    hidden = 0
    for i in range(-1, 2):
        for j in range(-1, 2):
            v, u = int(row + 1.3 * i), int(column + 1.3 * j)
            if 0 <= v < shadow_map.shape[0] and 0 <= u < shadow_map.shape[1] and shadow_map[v, u] < depth:
                hidden += 1
    return 1 - 0.75 * hidden / 9.0


@compiled
def _material(part, x, y, z, lips, eyelids, ears, mouth, sky, look):
    """Colour, shine, sharpness of the shine, how far light creeps round (skin), and open sky, of a point."""
    if part == SKIN:
        colour, shine, creep = paint.skin(x, y, z, lips, eyelids, ears, mouth, look)
        return colour, shine, 18.0, creep, sky
    if part == LEFT_EYE or part == RIGHT_EYE:
        return paint.eye(x, y, z, look), 0.5, 60.0, 0.1, sky
    if part == GLASSES:
        return paint.scaled(look.glasses, 1.0, 1.0, 1.0), 0.4, 30.0, 0.0, 0.9
    if part == LASHES:
        return (0.06, 0.05, 0.05), 0.0, 18.0, 0.0, sky
    if part == TEETH:
        return (0.85, 0.82, 0.76), 0.3, 18.0, paint.SOFT, 0.7
    if part == TONGUE:
        return (0.62, 0.28, 0.28), 0.12, 18.0, paint.SOFT, 0.6
    tone = 1 + 0.55 * paint.strand(x, y, z, look)
    return paint.scaled(look.hair, tone, tone, tone), 0.16 * (1 - 0.7 * look.hair_curls), 10.0, 0.0, sky


@compiled
def shade(
    triangle, second, third, triangles, parts, vertices, normals, places, zones, sky, look, eye, light, to_map,
    shadow_map, background, supersampling, picture,
):  # fmt: skip
    """Fills a picture.

    Args:
        triangle, second, third: buffers of `raster.Buffers`, `supersampling` times as large as the picture.
        triangles, parts, places, zones: as in `Head`.
        vertices, normals: of the mesh.
        sky: [N] of `raster.open_sky`.
        look: of the person.
        eye: [3] where the camera is.
        light: Light.
        to_map, shadow_map: [3, 4] world -> pixels and depth of the key light's depth map [S, S].
        background: [H, W, 3] float32.
        supersampling: samples of a pixel on a side.
        picture: [H, W, 3] float32, 0..1; written.
    """
    share = 1.0 / (supersampling * supersampling)
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            red = green = blue = 0.0
            for sample in range(supersampling * supersampling):
                v = row * supersampling + sample // supersampling
                u = column * supersampling + sample % supersampling
                k = triangle[v, u]
                if k < 0:
                    red += background[row, column, 0]
                    green += background[row, column, 1]
                    blue += background[row, column, 2]
                    continue
                a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
                wb, wc = second[v, u], third[v, u]
                wa = 1 - wb - wc
                part = parts[k]
                nx, ny, nz = _unit(
                    interpolate(normals, 0, a, b, c, wa, wb, wc),
                    interpolate(normals, 1, a, b, c, wa, wb, wc),
                    interpolate(normals, 2, a, b, c, wa, wb, wc),
                )
                x = interpolate(vertices, 0, a, b, c, wa, wb, wc)
                y = interpolate(vertices, 1, a, b, c, wa, wb, wc)
                z = interpolate(vertices, 2, a, b, c, wa, wb, wc)
                vx, vy, vz = _unit(eye[0] - x, eye[1] - y, eye[2] - z)
                px = interpolate(places, 0, a, b, c, wa, wb, wc)
                py = interpolate(places, 1, a, b, c, wa, wb, wc)
                pz = interpolate(places, 2, a, b, c, wa, wb, wc)
                colour, shine, sharpness, creep, open_sky = _material(
                    part, px, py, pz,
                    interpolate(zones, LIPS, a, b, c, wa, wb, wc),
                    interpolate(zones, EYELIDS, a, b, c, wa, wb, wc),
                    interpolate(zones, EARS, a, b, c, wa, wb, wc),
                    interpolate(zones, MOUTH, a, b, c, wa, wb, wc),
                    wa * sky[a] + wb * sky[b] + wc * sky[c],
                    look,
                )  # fmt: skip
                if part == LASHES or part == LONG_HAIR:  # Strips with two sides show the one that faces the camera.
                    if nx * vx + ny * vy + nz * vz < 0:
                        nx, ny, nz = -nx, -ny, -nz
                if part > TONGUE and part != GLASSES:
                    bend = paint.strand(px, py, pz, look)
                    nx, nz = nx + 0.25 * bend, nz + 0.2 * bend
                lit = _sunlit(x, y, z, to_map, shadow_map)
                facing = nx * light.direction[0] + ny * light.direction[1] + nz * light.direction[2]
                key = max((facing + creep) / (1 + creep), 0.0) * (0.4 + 0.6 * open_sky)
                filling = nx * light.fill_direction[0] + ny * light.fill_direction[1] + nz * light.fill_direction[2]
                filling = light.fill * max(filling, 0.0) * open_sky
                around = (0.6 + 0.4 * nz) * open_sky
                hx, hy, hz = _unit(light.direction[0] + vx, light.direction[1] + vy, light.direction[2] + vz)
                glint = 0.0
                if facing > 0:
                    glint = shine * lit * max(nx * hx + ny * hy + nz * hz, 0.0) ** sharpness
                rim = 0.10 * (1 - max(nx * vx + ny * vy + nz * vz, 0.0)) ** 3
                # Red light creeps under skin into the shadow's edge.
                lit_red = lit if creep == 0 else 0.08 + 0.92 * lit
                r = colour[0] * (light.ambient[0] * around + light.key[0] * key * lit_red + filling)
                g = colour[1] * (light.ambient[1] * around + light.key[1] * key * lit + filling)
                b_ = colour[2] * (light.ambient[2] * around + light.key[2] * key * lit + filling)
                red += min(r + glint + rim * light.ambient[0], 1.0)
                green += min(g + glint + rim * light.ambient[1], 1.0)
                blue += min(b_ + glint + rim * light.ambient[2], 1.0)
            picture[row, column, 0] = red * share
            picture[row, column, 1] = green * share
            picture[row, column, 2] = blue * share
