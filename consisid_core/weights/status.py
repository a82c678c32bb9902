"""Which parts of the release a ComfyUI has, told from its files alone, without the network."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.files import checkpoint_files, list_checkpoints
from ..errors import ConsisIDError
from .layout import human, unfinished
from .nets import identify, is_usable_text_encoder
from .source import SAFETENSORS, open_source, read_header


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


def status_of(part, folders):
    """Status of a part (layout.Part) in a ComfyUI's model folders (layout.ModelFolders)."""
    target = folders.target(part)
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
            if file.suffix in SAFETENSORS:
                read_header(file)
            elif file.suffix == ".onnx" and not file.stat().st_size:
                raise ConsisIDError(f"{file} is empty")
            elif file.suffix != ".onnx" and not zipfile.is_zipfile(file):
                raise ConsisIDError(f"{file} is truncated: its table of contents is missing")
    except (ConsisIDError, OSError) as error:
        return str(error)
    return ""


def _find_substitute(part, folders):
    """Another checkpoint from which the same net can be loaded, as (model folder, name in the loader), or None."""
    if part.name not in ("transformer", "vae", "text_encoder"):
        return None
    # A whole copy of the repository may lie in models/consisid, and the loaders offer its parts.
    for root in [*folders.roots(part.folder), *folders.roots("consisid")]:
        files = [Path(parent, name) for parent, _, names in os.walk(root, followlinks=True) for name in names]
        names = [file.relative_to(root).as_posix() for file in files if file.suffix.lower() in SAFETENSORS]
        for name in list_checkpoints(names):
            try:
                source = open_source(root / name)
            except ConsisIDError:
                continue  # Not a complete one; which of the user's files are damaged is not the question here.
            if source.is_demo or identify(source.tensors) != part.name:
                continue
            if part.name != "text_encoder" or is_usable_text_encoder(source):
                return root, name
    return None
