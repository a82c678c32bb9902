"""The exceptions that reach a user, and the words for those of libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConsisIDError(ValueError):
    """Something the user can put right: the message says what is wrong, with which file or image, and what to do."""


class WeightsError(ConsisIDError):
    """Weights that are not those of a net, or not in a form that can be used.

    Who compares names and shapes knows what is wrong with them, and who read them knows the file and the remedy:
    `checkpoint.fit.about` joins the parts.
    """

    def __init__(self, problem: str, subject: str = "The state dict", remedy: str = ""):
        """
        Args:
            problem: predicate of the sentence, "is not a BiSeNet face parser", without a full stop.
            subject: what it is said of, usually a path.
            remedy: a sentence of its own, with or without its full stop.
        """
        super().__init__(f"{subject} {problem}. {remedy}".rstrip())
        self.problem = problem


@contextmanager
def optional_library(purpose: str) -> Iterator[None]:
    """Turn a failing import inside into a sentence.

    Args:
        purpose: what the user wanted, to begin that sentence.

    Raises:
        ConsisIDError: naming the missing package and how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ConsisIDError(
            f"{purpose} needs a Python package that does not import here ({error}). Install the pack's requirements "
            "into ComfyUI's Python: pip install -r custom_nodes/<this pack>/requirements.txt, then restart ComfyUI."
        ) from None


def in_short(error: Exception) -> str:
    """The first sentence of a library's error, without the advice that follows."""
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, torch's or onnxruntime's says that memory does not suffice, host's or device's."""
    words = str(error).lower()
    # torch: "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "Cannot allocate memory" (mmap).
    # onnxruntime: "Failed to allocate memory", "std::bad_alloc".
    return isinstance(error, MemoryError) or any(
        sign in words for sign in ("out of memory", "allocate memory", "bad_alloc", "bad allocation")
    )


def lack_of_memory(what: str) -> ConsisIDError:
    """The error to raise for an error that `is_out_of_memory`.

    Args:
        what: what could not be done, to begin the sentence: "a.onnx cannot be loaded".
    """
    return ConsisIDError(f"{what}: the free memory does not suffice. Close other programs and try again.")
