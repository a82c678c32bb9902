"""The head as a mesh: a person's shape at rest, and that shape with a turned head and a moving face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ConsisIDError
from . import geometry, glasses, hair, head_data
from .head_data import BONES, LEFT_EYE, LONG_HAIR, RIGHT_EYE, SKIN

HAIR, GLASSES = 7, 8
"""Parts that `Head` adds to those of the head data."""
PARTS = 9

LIPS, EYELIDS, EARS, MOUTH = range(4)
"""Columns of `Head.zones`."""

_PARENTS = {
    "neck02": "neck01", "neck03": "neck02", "head": "neck03", "eye.L": "head", "eye.R": "head",
    "upperarm01.L": "shoulder01.L", "upperarm01.R": "shoulder01.R",
}  # fmt: skip
# How a turn of the head is shared among the bones of the neck.
_SHARES = {"neck01": 0.15, "neck02": 0.15, "neck03": 0.2, "head": 0.5}
_ARM_DEGREES = 42  # The template stretches its arms out; here they hang.
_SHIRT_THICKNESS = 0.004
_HEIGHT_OF_SHIRT = 0.60


class Mesh(NamedTuple):
    """Vertices of `Head.triangles` and their unit normals: [N, 3] float32, metres."""

    vertices: np.ndarray
    normals: np.ndarray


class Rest(NamedTuple):
    """One person's head with a straight and calm face: vertices without hair and glasses, and the bones' heads."""

    vertices: np.ndarray
    bones: np.ndarray


class Head:
    """Geometry shared by all people. Make it once: `Head.load()`."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes the arrays of a head data file."""
        self.template = arrays["template"]
        self.local_names = [str(name) for name in arrays["local_names"]]
        self.action_names = [str(name) for name in arrays["action_names"]]
        self._people = arrays["people"].astype(np.float32)
        self._people_bones = arrays["people_bones"]
        self._local = _Shapes(arrays, "local")
        self._local_bones = arrays["local_bones"]
        self._actions = _Shapes(arrays, "action")
        weights = arrays["bone_weights"].astype(np.float32)
        self._bone_weights = weights / weights.sum(1, keepdims=True)  # Half precision left a thousandth too much.
        triangles, parts = arrays["triangles"], arrays["parts"]
        zones = arrays["zones"].astype(np.float32) / 255
        self.is_skin = np.zeros(len(self.template), bool)
        self.is_skin[triangles[parts == SKIN]] = True
        self._shirt = np.flatnonzero(self.is_skin & (self.template[:, 2] < _HEIGHT_OF_SHIRT))
        self._own_triangles = np.ascontiguousarray(triangles)
        # Strips of long hair that would hang over the face.
        in_face = (parts == LONG_HAIR) & (self.template[triangles][:, :, 1] < -0.095).any(1)
        triangles, parts = triangles[~in_face], parts[~in_face]
        cap, self.hair_roots = hair.cap(self.template, triangles[parts == SKIN], zones[:, EARS])
        counts = np.cumsum([len(self.template), len(self.hair_roots), len(glasses.SPOTS)])
        self.triangles = np.concatenate([triangles, cap + counts[0], glasses.TRIANGLES + counts[1]]).astype(np.int32)
        self.parts = np.concatenate([parts, np.full(len(cap), HAIR), np.full(len(glasses.TRIANGLES), GLASSES)])
        self.parts = self.parts.astype(np.int8)
        """What each triangle belongs to."""
        no_glasses = np.zeros((len(glasses.SPOTS), 3), np.float32)
        self.places = np.concatenate([self.template, self.template[self.hair_roots], no_glasses])
        """[N, 3] where each vertex lies on the template, for painting."""
        self.zones = np.concatenate([zones, zones[self.hair_roots], np.zeros((len(glasses.SPOTS), 4), np.float32)])
        """[N, 4] 0..1: lips, eyelids, ears, inside of the mouth."""
        self.landmarks = _landmarks(self.template, arrays["triangles"], arrays["parts"], zones[:, LIPS])
        """Vertices of the five facial landmarks in insightface's order, left and right as on the picture."""

    @classmethod
    def load(cls, path: Path | str | None = None) -> Head:
        """Reads the head data, and builds the file first where it is missing.

        Args:
            path: the file; `head_data.default_path()` without it.

        Raises:
            ConsisIDError: the file cannot be built, or it is not head data.
        """
        path = Path(path or head_data.default_path())
        if not path.is_file():
            head_data.build(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls({name: file[name] for name in file.files})
        except Exception as error:
            raise ConsisIDError(
                f"{path} is no head data of this version ({type(error).__name__}). Delete it: it is built anew."
            ) from None

    def rest(self, woman: float, old: float, ancestry: tuple[float, ...], changes: Mapping[str, float]) -> Rest:
        """One person's head.

        Args:
            woman: 0 a man's head, 1 a woman's.
            old: 0 at 25 years, 1 at 90.
            ancestry: shares of `head_data.ANCESTRIES`, 1 together.
            changes: name of a local change -> -1..1.
        """
        vertices, bones = self.template.copy(), np.zeros_like(self._people_bones[0])
        rows = [(g, a, r) for g in (1 - woman, woman) for a in (1 - old, old) for r in ancestry]
        for (gender, age, share), offsets, places in zip(rows, self._people, self._people_bones, strict=True):
            vertices += np.float32(gender * age * share) * offsets
            bones += np.float32(gender * age * share) * places
        for name, amount in changes.items():
            shape = 2 * self.local_names.index(name) + (amount < 0)
            self._local.add(vertices, shape, abs(amount))
            bones += np.float32(abs(amount)) * self._local_bones[shape]
        return Rest(vertices, bones)

    def fit_glasses(self, rest: Rest, radius: float, squareness: float) -> np.ndarray:
        """[V, 3] spectacles for this person; arguments as in `glasses.fit`."""
        face = rest.vertices[self.is_skin & (self.zones[: len(self.template), EARS] < 0.2)]
        return glasses.fit(face, rest.bones[BONES.index("eye.L")], radius, squareness)

    def pose(
        self,
        rest: Rest,
        angles: tuple[float, float, float] = (0, 0, 0),
        actions: Mapping[str, float] | None = None,
        gaze: tuple[float, float] = (0, 0),
        hair: np.ndarray | None = None,
        spectacles: np.ndarray | None = None,
    ) -> Mesh:
        """The head in one moment.

        Args:
            rest: the person.
            angles: degrees of yaw, pitch and roll as in `geometry.rotation`, for the whole of head and neck.
            actions: facial action -> 0..1. A name without side, as "eyeBlink", moves both.
            gaze: degrees of yaw and pitch of the eyes, from straight on.
            hair: [len(hair_roots)] float32 height of the hair in metres, from `hair.heights`; none without it.
            spectacles: vertices from `fit_glasses`.
        """
        vertices = rest.vertices.copy()
        for name, amount in (actions or {}).items():
            for side in ("",) if name in self.action_names else ("Left", "Right"):
                self._actions.add(vertices, self.action_names.index(name + side), amount)
        transforms = _transforms(rest.bones, angles, gaze)
        vertices = geometry.skin(vertices, self._bone_weights, transforms)
        normals = geometry.normals(vertices, self._own_triangles)
        vertices[self._shirt] += _SHIRT_THICKNESS * normals[self._shirt]
        roots = normals[self.hair_roots]
        hairs = vertices[self.hair_roots]
        if hair is not None:
            hairs += hair[:, None] * roots
        worn = np.zeros((len(glasses.SPOTS), 3), np.float32)
        if spectacles is not None:
            worn = geometry.skin(spectacles, np.ones((len(worn), 1), np.float32), transforms[[BONES.index("head")]])
        vertices = np.concatenate([vertices, hairs, worn])
        normals = geometry.normals(vertices, self.triangles)
        # Hair shades like the scalp below it, in part.
        cap = slice(len(self.template), len(self.template) + len(roots))
        normals[cap] = 0.35 * roots + 0.65 * normals[cap]
        return Mesh(vertices, normals)


class _Shapes:
    """Shapes that move a few vertices each."""

    def __init__(self, arrays, name):
        self._starts = arrays[f"{name}_starts"]
        self._vertices = arrays[f"{name}_vertices"]
        self._offsets = arrays[f"{name}_offsets"].astype(np.float32)

    def add(self, vertices, shape, amount):
        own = slice(self._starts[shape], self._starts[shape + 1])
        geometry.add_offsets(vertices, self._vertices[own], self._offsets[own], np.float32(amount))


def _transforms(bones, angles, gaze):
    """[bones + 1, 4, 4] float32; the last one stands still."""
    moved = {}
    for name, place in zip(BONES, bones.astype(np.float64), strict=True):
        if name in _SHARES:
            turn = geometry.rotation(*(angle * _SHARES[name] for angle in angles))
        elif name.startswith("eye"):
            turn = geometry.rotation(*gaze, 0)
        elif name.startswith("upperarm"):
            turn = geometry.rotation(0, 0, _ARM_DEGREES if name.endswith("L") else -_ARM_DEGREES)
        else:
            turn = np.eye(3)
        own = np.eye(4)
        own[:3, :3] = turn
        own[:3, 3] = place - (turn * place).sum(1)
        moved[name] = geometry.multiply(moved[_PARENTS[name]], own) if name in _PARENTS else own
    return np.stack([*moved.values(), np.eye(4)]).astype(np.float32)


def _landmarks(template, triangles, parts, lips):
    """Pupils, nose and corners of the mouth, from the picture's left to its right."""

    def foremost(vertices):
        return vertices[template[vertices, 1].argmin()]

    # The person's right is the picture's left.
    eyes = [foremost(np.unique(triangles[parts == part])) for part in (RIGHT_EYE, LEFT_EYE)]
    # Detectors put the nose a little above its very tip.
    nose = np.flatnonzero((abs(template[:, 0]) < 0.004) & (abs(template[:, 2] - 0.700) < 0.002))
    mouth = np.flatnonzero(lips > 0.5)
    corners = [mouth[template[mouth, 0].argmin()], mouth[template[mouth, 0].argmax()]]
    return np.array([*eyes, foremost(nose), *corners])
