"""Which parts of the release a ComfyUI has, told from its files alone, without the network."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.files import GGUF, PICKLES, SAFETENSORS, checkpoint_files, list_checkpoints
from ..checkpoint.model_folders import ModelFolders
from ..checkpoint.net_config import T5_VOCABULARY
from ..checkpoint.nets import identify
from ..checkpoint.reading import list_checkpoint, list_file
from ..errors import ConsisIDError
from .parts import Part, human, unfinished

_T5_XXL_WIDTH = 4096


@dataclass(frozen=True)
class Status:
    """How much of a part there is."""

    state: str
    """present, incomplete, missing, or replaced: another file serves."""
    path: Path
    """Where the part lies or belongs."""
    note: str = ""
    """What is missing, or which file serves instead."""
    fetched: int = 0
    """Bytes on disk, unfinished files included."""
    substitute: str = ""
    """The file or folder that serves instead, as a loader lists it."""


def status_of(part: Part, folders: ModelFolders) -> Status:
    """Status of a part in a ComfyUI's model folders. Nothing is raised for what is wrong with a file."""
    target = part.place(folders)
    if target.exists() or unfinished(target).exists():
        fetched = _size_on_disk(target)
        missing = _what_is_missing(part, target)
        return Status("incomplete" if missing else "present", target, missing, fetched)
    if substitute := _find_substitute(part, folders):
        root, name = substitute
        return Status("replaced", target, f"{root / name} serves as well: choose it in the loader", substitute=name)
    return Status("missing", target)


def _size_on_disk(target):
    files = target.iterdir() if target.is_dir() else [path for path in (target, unfinished(target)) if path.exists()]
    return sum(path.stat().st_size for path in files if path.is_file())


def _what_is_missing(part, target):
    begun = list(target.glob("*.part")) if target.is_dir() else [unfinished(target)]
    if begun := [path for path in begun if path.exists()]:
        return f"{begun[0].name} is unfinished at {human(begun[0].stat().st_size)}"
    checkpoint = target / part.weights
    try:
        if not checkpoint.exists():
            raise ConsisIDError(f"{checkpoint} is missing")
        for file in checkpoint_files(checkpoint)[0]:
            _check_whole(file)
    except (ConsisIDError, OSError) as error:
        return str(error)
    return ""


def _check_whole(file):
    """Raise ConsisIDError if a file is truncated, as far as that can be told without reading all of it."""
    if file.suffix == ".onnx":
        if not file.stat().st_size:
            raise ConsisIDError(f"{file} is empty")
    elif not zipfile.is_zipfile(file):  # Of a pickle that is one, the table of contents stands at the end.
        list_file(file)


def _find_substitute(part, folders):
    """Another checkpoint from which the same net can be loaded, as (model folder, name in the loader), or None."""
    if part.name not in ("transformer", "vae", "text_encoder"):
        return None
    # A whole copy of the repository may lie in models/consisid, and the loaders offer its parts.
    for root in [*folders.roots(part.folder), *folders.roots("consisid")]:
        files = [Path(parent, name) for parent, _, names in os.walk(root, followlinks=True) for name in names]
        names = [file.relative_to(root).as_posix() for file in files if _may_serve(file)]
        for name in list_checkpoints(names):
            try:
                checkpoint = list_checkpoint(root / name)
            except ConsisIDError:
                continue  # Not a complete one; which of the user's files are damaged is not the question here.
            if checkpoint.is_demo or identify(checkpoint.tensors) != part.name:
                continue
            if part.name != "text_encoder" or _is_t5_xxl(checkpoint.shapes):
                return root, name
    return None


def _may_serve(file):
    suffix = file.suffix.lower()
    # Pickles of the old form would have to be read as a whole, whatever they are.
    return suffix in (*SAFETENSORS, GGUF) or (suffix in PICKLES and zipfile.is_zipfile(file))


def _is_t5_xxl(shapes):
    """Whether this is T5 v1.1 XXL, whoever published it."""
    return (T5_VOCABULARY, _T5_XXL_WIDTH) in (shapes.get("shared.weight"), shapes.get("encoder.embed_tokens.weight"))
