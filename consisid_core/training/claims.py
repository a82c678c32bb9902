"""One process at a time, of all that work in a folder, on one machine or many."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..evaluation.results import lock

_PAUSE = 0.05  # seconds between tries


@contextmanager
def claimed(file: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a claim, which ends with the context or with the process, however it ends.

    Where the file system knows no locks every claim is granted: work is then done twice at worst, since files are
    written whole.

    Args:
        file: stands for the claim, and is removed after it.
        wait: until another process has ended its claim.

    Yields:
        Whether it is granted.
    """
    stream = _take(file, wait)
    try:
        yield stream is not None
    finally:
        if stream is not None:
            _remove(file)
            stream.close()


def _take(file, wait):
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = open(file, "ab")
        try:
            lock(stream)
        except (BlockingIOError, PermissionError):
            stream.close()
            if not wait:
                return None
            time.sleep(_PAUSE)
            continue
        except OSError:
            return stream
        # Whoever held it before may have removed the file in the meantime: the lock is then on no file at all.
        if _is_same(stream, file):
            return stream
        stream.close()


def _is_same(stream, file):
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _remove(file):
    try:
        file.unlink(missing_ok=True)
    except PermissionError:  # Windows keeps what is open; the empty file does no harm.
        pass
