"""How every command ends: with a line that says what happened and an exit code, never with a trace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .errors import ConsisIDError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def at_least(minimum: int) -> Callable[[str], int]:
    """The `type` of an option that is a whole number from so many on."""

    def number(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} on.")
        return int(text)

    return number


def run_command(command: Callable[[], int | None], folder: Path | str, after_stop: str = "") -> int:
    """Run a command, and print what ended it before its end.

    Args:
        command: does the work; its result is the exit code, None for 0.
        folder: named for an error of the file system that names no file.
        after_stop: what Ctrl-C leaves, e.g. "the next run goes on where this one stopped".

    Returns:
        The exit code: the command's own, 1 after an error, `INTERRUPTED` after Ctrl-C.
    """
    try:
        return command() or 0
    except ConsisIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or folder}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped{'; ' if after_stop else ''}{after_stop}.", file=sys.stderr)
        return INTERRUPTED
