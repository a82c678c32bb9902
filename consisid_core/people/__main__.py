"""`python -m consisid_core.people OUT --people N --clips M`: videos of synthetic people to train on."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from ..command_line import run_command
from ..errors import ConsisIDError


def _size(text):
    if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no WIDTHxHEIGHT, e.g. 96x96")
    return int(found[1]), int(found[2])


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.people",
        description="Draw captioned clips of people who do not exist, with face masks, label maps and landmarks. OUT "
        "gets the manifest that `python -m consisid_core.training` reads, and a data card.",
        epilog="A second start makes what is missing; more --people adds people. The same seed gives the same bytes, "
        "however many processes work. Exit codes: 0 the set is complete, 1 a problem that is named, 2 wrong usage, 130 "
        "stopped.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the set")
    parser.add_argument("--people", type=int, required=True, metavar="N", help="how many people")
    parser.add_argument("--clips", type=int, default=4, metavar="M", help="clips of each person (default 4)")
    parser.add_argument("--size", type=_size, default=(96, 96), metavar="WxH", help="of the frames (default 96x96)")
    parser.add_argument("--frames", type=int, default=17, help="of each clip (default 17)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other people (default 0)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="K", help="processes (default: one a core)"
    )
    return parser


def _run(options):
    try:
        from .data_card import ancestry_counts
        from .dataset import Settings, write_dataset
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "av"):
            raise
        raise ConsisIDError(f"The people are drawn with {error.name}: pip install {error.name}") from None
    width, height = options.size
    settings = Settings(options.clips, width, height, options.frames, options.seed)
    persons = write_dataset(options.out, options.people, settings, options.workers)
    print(f"{options.people} people in {options.people * options.clips} clips: {options.out / 'manifest.jsonl'}")
    counts = ", ".join(f"{name} {most} ({share:.2f})" for name, (most, share) in ancestry_counts(persons).items())
    print(f"Ancestry, as people with most of it (mean share): {counts}. More in {options.out / 'data_card.md'}")


def main(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options), options.out, "the next start goes on where this one stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
