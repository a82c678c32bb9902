"""Compiled functions whose machine code is kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numba

_SOURCES = Path(__file__).parent
_VERSION = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(_SOURCES.glob("*.py")))).hexdigest()[:12]


def compiled(function: Callable) -> Callable:
    """Compile a function by numba when it is called first.

    Numba's files name the module that a function was imported from, and fail under another name: the pack is called
    differently in ComfyUI, in tests and on the command line. So each name has a folder of its own. And each version of
    the sources: numba does not see that a function in another file has changed, which it has compiled in.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_SOURCES / "__pycache__" / _VERSION / function.__module__.rpartition(".")[0])
    try:
        return numba.njit(function, fastmath=True, cache=os.access(_SOURCES, os.W_OK))
    finally:
        numba.config.CACHE_DIR = before
