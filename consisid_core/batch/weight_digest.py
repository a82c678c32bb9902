"""What tells weights from others under the same names, without reading all of their gigabytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ..checkpoint.model_folders import ModelFolders

_PIECES, _PIECE = 64, 65536  # Of each file: so many pieces at equal distances, of so many bytes. Training changes all.
_KINDS = (
    "checkpoints", "clip_vision", "controlnet", "diffusion_models", "text_encoders", "loras", "vae", "consisid",
    "insightface/models", "upscale_models",
)  # fmt: skip


def weight_digest(graph: dict, comfyui: Path | str | None) -> str:
    """One digest of all files of models that a graph names.

    Args:
        graph: nodes in API format.
        comfyui: as for `ModelFolders`.

    Returns:
        Hexadecimal digest of names, sizes and samples of the contents; "" if the graph names no file that is there.

    Raises:
        ConsisIDError: there is no such ComfyUI.
    """
    folders = ModelFolders(comfyui)
    names = sorted({value for node in graph.values() for value in node["inputs"].values() if _may_be_a_file(value)})
    parts = []
    for kind in _KINDS:
        first, _, rest = kind.partition("/")
        for name in names:
            paths = [root / rest / name for root in folders.roots(first)]
            if path := next((path for path in paths if path.exists()), None):
                parts.append([kind, name, [_sample(file, path) for file in _files(path)]])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if parts else ""


def _may_be_a_file(value):
    return isinstance(value, str) and 0 < len(value) < 256 and "\n" not in value and value.strip(". /\\") == value


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _sample(file, root):
    size = file.stat().st_size
    state = hashlib.sha256()
    with open(file, "rb") as stream:
        for piece in range(_PIECES):
            stream.seek(max(0, size - _PIECE) * piece // (_PIECES - 1))
            state.update(stream.read(_PIECE))
    return [file.relative_to(root).as_posix(), size, state.hexdigest()]
