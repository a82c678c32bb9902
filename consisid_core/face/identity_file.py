"""Identities kept for later: a Face as a .safetensors file."""

from __future__ import annotations

import itertools
import logging
import os
import re
import stat
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import ConsisIDError
from ..types import Face

SUFFIX = ".safetensors"
"""Of an identity's file, whatever its name."""

FORMAT = "consisid-identity"
"""`format` in the metadata of every identity."""

VERSION = 1
"""`version` in the metadata: newest one that is read, and the one that is written."""

MAX_PHOTOS = 600
"""Most photos in an identity."""

MAX_BYTES = 4 * 1000**3
"""Largest file that is read; 600 photos take 3.8 GB."""

# Shape of each field of a Face for one photo, as types.Face documents it.
_SHAPES = {
    "embedding": (512,),
    "landmarks": (5, 2),
    "bbox": (4,),
    "score": (),
    "image": (512, 512, 3),
    "gray_image": (512, 512, 3),
    "alignment": (2, 3),
}
_WITHIN_0_TO_1 = ("score", "image", "gray_image")
_ROUNDING = 1e-3

_MAX_NAME = 100
_MAX_PART_BYTES = 200  # File systems take 255, with the number and the suffix.
_FORBIDDEN = frozenset('<>:"|?*\\')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.I)
_RULES = (
    'Allowed are letters, digits, spaces and signs other than < > : " | ? * \\, up to 100 characters, with / between '
    "folders and name (family/anna). No part may be empty, begin or end with a dot or a space, be longer than 200 "
    "bytes, or be a Windows device name (CON, NUL, COM1)."
)
_CURE = "Choose another identity, or save this one again with Save ConsisID Identity."
_FACE_CURE = "Connect the FACE of ConsisID Face Analyzer."


def write_identity(face: Face, folder: Path | str, name: str) -> Path:
    """Saves a Face as <folder>/<name>.safetensors, or with a number if that is taken (anna_2). Nothing is overwritten.

    The file appears complete or not at all.

    Args:
        face: as `types.Face` documents it, of 1 to `MAX_PHOTOS` photos.
        folder: created where needed.
        name: may contain sub-folders (family/anna).

    Returns:
        Path of the file, links resolved.

    Raises:
        ConsisIDError: a name that some system cannot store, a link out of the folder, a Face that is not as
            documented, or a folder that cannot be written.
    """
    parts = _check_name(name)
    tensors = {field: getattr(face, field) for field in _SHAPES}
    photos = _check_shapes(
        {field: (tensor.dtype, tensor.shape) for field, tensor in tensors.items()}, "FACE", _FACE_CURE
    )
    _check_values(tensors, "FACE", _FACE_CURE)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "photos": str(photos),
    }
    try:
        root = Path(folder).resolve()
        parent = root.joinpath(*parts[:-1]).resolve()
        if not parent.is_relative_to(root):
            raise ConsisIDError(
                f"The name {name!r} leads through a link out of {root}. Choose another sub-folder or remove the link."
            )
        parent.mkdir(parents=True, exist_ok=True)
        path = _write(tensors, metadata, parent, parts[-1])
    # RuntimeError: links in a circle, before Python 3.13.
    except (OSError, RuntimeError) as error:
        raise ConsisIDError(
            f"The identity {name!r} cannot be written below {folder} ({error}). Check the folder's rights and free "
            "space, or choose another name."
        ) from None
    logging.getLogger("consisid").info("Identity saved as %s in %s", identity_name(path, folder), path)
    return path


def _write(tensors, metadata, parent, stem):
    """Path of the new file, written beside it first."""
    temporary = parent / f".{uuid.uuid4().hex}.tmp"
    try:
        # Copies, because tensors that share memory are refused.
        copies = {
            field: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for field, tensor in tensors.items()
        }
        try:
            save_file(copies, temporary, metadata)
        # safetensors' own exception for a full disk or a folder without write permission.
        except Exception as error:
            raise OSError(str(error)) from None
        path = _reserve(parent, stem)
        try:
            os.replace(temporary, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path
    finally:
        temporary.unlink(missing_ok=True)


def _reserve(parent, stem):
    """Creates the first free one of stem, stem_2, stem_3, …, as an empty file that is ours."""
    for number in itertools.count(1):
        path = parent / f"{stem}{f'_{number}' if number > 1 else ''}{SUFFIX}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return path
        except FileExistsError:
            continue


def read_identity(path: Path | str) -> Face:
    """Reads a file that `write_identity` made, as a Face in memory of its own, equal bit by bit to what was saved.

    Raises:
        ConsisIDError: naming file and cure, if it is missing, damaged, of another kind or of a newer version.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ConsisIDError(f"{path} is not a file. {_CURE}")
        if status.st_size > MAX_BYTES:
            raise ConsisIDError(f"{path} is larger than 4 GB ({status.st_size:,} bytes), too large to read. {_CURE}")
        with safe_open(str(path), framework="pt", device="cpu") as file:
            _check_metadata(file.metadata() or {}, path)
            slices = {name: file.get_slice(name) for name in file.keys()}
            _check_shapes({name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}, path, _CURE)
            # Copies, because the tensors lie in the file, which may be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in _SHAPES}
    except FileNotFoundError:
        raise ConsisIDError(f"{path} does not exist. {_CURE}") from None
    except ConsisIDError:
        raise
    # Whatever a damaged file makes the reader raise means the same to the user.
    except Exception as error:
        raise ConsisIDError(
            f"{path} cannot be read as an identity ({type(error).__name__}: {str(error)[:200]}). It is damaged, "
            f"incomplete or of another kind. {_CURE}"
        ) from None
    _check_values(tensors, path, _CURE)
    return Face(**tensors)


def list_identities(folders: Sequence[Path | str]) -> dict[str, Path]:
    """The identity files below the folders, sorted by name; of equal names the one in the first folder.

    Hidden files and links that lead out of a folder are left out.

    Returns:
        {name: path}. Names have / between folders and no suffix.
    """
    found = {}
    for folder in folders:
        for parent, subfolders, files in os.walk(folder):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for file in files:
                path = Path(parent, file)
                if file.startswith(".") or not file.lower().endswith(SUFFIX) or not _stays_inside(path, folder):
                    continue
                found.setdefault(path.relative_to(folder).as_posix()[: -len(SUFFIX)], path)
    return dict(sorted(found.items()))


def find_identity(folders: Sequence[Path | str], name: str) -> Path:
    """Path of the identity that `list_identities` lists by this name.

    Raises:
        ConsisIDError: there is none.
    """
    path = list_identities(folders).get(name)
    if path is None:
        raise ConsisIDError(
            f"There is no identity {name!r} in {' or '.join(map(str, folders))}. Press R to refresh the list and "
            "choose another; links that lead out of the folder are not followed."
        )
    return path


def identity_name(path: Path | str, folder: Path | str) -> str:
    """The name by which `list_identities` lists a file that `write_identity` wrote."""
    return Path(path).relative_to(Path(folder).resolve()).as_posix()[: -len(SUFFIX)]


def _stays_inside(path, folder):
    if not path.is_symlink():
        return True
    try:
        return path.resolve(strict=True).is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError):
        return False


def _check_name(name):
    """The parts of a name for a new file; ConsisIDError, with the rules, for one that is not safe everywhere."""
    parts = name.split("/")
    if not name:
        reason = "is empty"
    elif len(name) > _MAX_NAME:
        reason = f"has {len(name)} characters"
    elif not name.isprintable():
        reason = "contains control or invisible characters"
    elif found := sorted(_FORBIDDEN & set(name)):
        reason = f"contains {' '.join(found)}"
    elif not all(parts):
        reason = "has an empty part"
    elif any(part[0] in ". " or part[-1] in ". " for part in parts):
        reason = "has a part that begins or ends with a dot or a space"
    elif any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        reason = "has a part longer than 200 bytes"
    elif any(map(_DEVICES.match, parts)):
        reason = "has a part that is a Windows device name"
    else:
        return parts
    raise ConsisIDError(f"The identity's name {name[:120]!r} {reason}. {_RULES}")


def _check_metadata(metadata, path):
    if metadata.get("format") != FORMAT:
        raise ConsisIDError(f"{path} is a safetensors file, but not a ConsisID identity. {_CURE}")
    version = metadata.get("version", "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise ConsisIDError(f"{path} is damaged: its version is {version[:20]!r}. {_CURE}")
    if int(version) > VERSION:
        raise ConsisIDError(
            f"{path} has version {version} of the identity format, this pack reads {VERSION}. Update the pack."
        )


def _check_shapes(tensors, source, cure):
    """B of tensors {name: (dtype, shape)}; ConsisIDError unless they are those of a Face."""
    if set(tensors) != set(_SHAPES):
        differing = ", ".join(sorted(name[:40] for name in set(tensors) ^ set(_SHAPES))[:10])
        raise ConsisIDError(f"{source} is not a complete identity: missing or unknown tensors {differing}. {cure}")
    shape = tuple(tensors["embedding"][1])
    photos = shape[0] if shape else 0
    if not 1 <= photos <= MAX_PHOTOS:
        raise ConsisIDError(
            f"{source} holds {photos} photos; 1 to {MAX_PHOTOS} can be kept in an identity. Use fewer photos."
        )
    for name, (dtype, shape) in tensors.items():
        expected = (photos, *_SHAPES[name])
        if tuple(shape) != expected or dtype not in (torch.float32, "F32"):
            raise ConsisIDError(
                f"{source} is not a valid identity: {name} is {dtype} {list(shape)}, not float32 {list(expected)}. "
                f"{cure}"
            )
    return photos


def _check_values(tensors, source, cure):
    for name, tensor in tensors.items():
        low, high = map(float, tensor.detach().aminmax())  # Both NaN if there is a NaN.
        if not (-float("inf") < low and high < float("inf")):
            raise ConsisIDError(f"{source} is not a valid identity: {name} contains NaN or infinite values. {cure}")
        if name in _WITHIN_0_TO_1 and (low < -_ROUNDING or high > 1 + _ROUNDING):
            raise ConsisIDError(f"{source} is not a valid identity: {name} has values outside 0..1. {cure}")
