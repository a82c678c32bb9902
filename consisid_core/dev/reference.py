"""diffusers, with which some commands compare. The pack does without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConsisIDError


@contextmanager
def importing_diffusers() -> Iterator[None]:
    """Around imports of diffusers.

    Raises:
        ConsisIDError: it does not import here.
    """
    try:
        yield
    except ImportError as error:
        raise ConsisIDError(
            f"This command compares with diffusers, which does not import here ({error}). Install it: "
            'python -m pip install "diffusers>=0.38"'
        ) from None
