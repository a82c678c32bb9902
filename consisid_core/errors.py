"""The one exception that reaches a user."""

from contextlib import contextmanager


class ConsisIDError(ValueError):
    """Something the user can put right: the message says what is wrong, with which file or image, and what to do."""


@contextmanager
def optional_library(purpose):
    """Turn a failing import inside into a sentence. purpose: what the user wanted, to begin that sentence.

    Raises ConsisIDError naming the missing package and how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ConsisIDError(
            f"{purpose} needs a Python package that does not import here ({error}). Install the pack's requirements "
            "into ComfyUI's Python: pip install -r custom_nodes/<this pack>/requirements.txt, then restart ComfyUI."
        ) from None


def in_short(error):
    """The first sentence of a library's error, without the advice that follows."""
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
