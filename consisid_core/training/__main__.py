"""Trains ConsisID: `prepare` turns videos into a cache, `run` trains from it, `export` writes what it learned."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

_COMMANDS = {
    "prepare": "videos and photos into a cache, once, so that a step of training costs what the transformer costs",
    "cases": "photos and prompts that a run makes videos of as it trains",
    "run": "train from a cache, or go on with a run that was stopped",
    "validation": "such videos from a checkpoint, at any time",
    "export": "what a run has learned, as files for ComfyUI and diffusers",
    "fit_step_cache": "what the node ConsisID Step Cache needs to know of exported weights",
}
_USAGE = "usage: python -m consisid_core.training COMMAND ...   (COMMAND --help says more)\n\n" + "\n".join(
    f"  {name:16}{what}" for name, what in _COMMANDS.items()
)


def main(arguments: Sequence[str]) -> int:
    """Run the command: `main` of the module that has its name.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code.
    """
    command, *rest = arguments or [""]
    if command in ("-h", "--help"):
        print(_USAGE)
        return 0
    if command not in _COMMANDS:
        print(_USAGE, f"error: there is no command {command!r}." if command else "", sep="\n\n", file=sys.stderr)
        return 2
    return importlib.import_module(f".{command}", __package__).main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
