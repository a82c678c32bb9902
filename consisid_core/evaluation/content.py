"""What files hold, as digests: by them a result knows its video, its photos and the nets that measured it.

Not by names and dates: a file that was replaced under its name is another, and a copy of a folder holds the same.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

_CHUNK = 2**20  # bytes
_DELAY = 2  # seconds without a bar


def digests(paths: Iterable[Path]) -> dict[Path, str | None]:
    """SHA-256 of every file, each read once. A bar on standard error shows the progress where it takes long.

    Args:
        paths: files; the same may come several times.

    Returns:
        path -> hexadecimal digest, or None where the file is missing or cannot be read.
    """
    from tqdm import tqdm

    sizes = {path: _size(path) for path in paths}
    options = {"unit": "B", "unit_scale": True, "dynamic_ncols": True, "leave": False, "delay": _DELAY}
    with tqdm(desc="Reading files", total=sum(sizes.values()), **options) as bar:
        return {path: _digest(path, bar.update) for path in sizes}


def fingerprint(files: dict[str, list[Path]]) -> str:
    """One digest of several nets: of their files' names and contents, wherever these lie.

    Args:
        files: net -> its files (`models.model_files`).

    Returns:
        Hexadecimal digest.
    """
    found = digests(path for paths in files.values() for path in paths)
    parts = {net: [[path.name, found[path]] for path in paths] for net, paths in files.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _size(path):
    try:
        return os.path.getsize(path)
    # ValueError: a name with a zero byte.
    except (OSError, ValueError):
        return 0


def _digest(path, on_bytes):
    state = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                state.update(chunk)
                on_bytes(len(chunk))
    except (OSError, ValueError):
        return None
    return state.hexdigest()
