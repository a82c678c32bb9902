"""The rows of a run: which photo, which prompt, which settings of the graph."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError
from ..evaluation.manifest import UNNAMED, read_entries

PHOTO, PROMPT, NEGATIVE, SEED, SYSTEM = COLUMNS = ("photo", "prompt", "negative", "seed", "system")
"""Columns with a meaning of their own. Any other has a dot: node and input of the graph."""

_SHOWN = 10  # wrong rows in one message
_EXAMPLE = (
    'Its first line names the columns: of "photo,prompt,negative,seed,system" those that are wanted, and any '
    '"node.input" of the graph, such as "14.steps". Then follows one line per video: "photos/anna.png,A woman '
    'reads.,,42,ours". Paths start from the folder of the manifest. A manifest.json is a list of objects with these '
    "names."
)


@dataclass(frozen=True)
class Row:
    """One video to be made."""

    place: str
    """Where it stands, for messages: "…/manifest.csv, line 3"."""
    photos: tuple[str, ...]
    """As the manifest has them: absolute, or from its folder on."""
    values: dict[str, object]
    """Column -> text or JSON value of what the graph is told, without photos and empty cells."""
    system: str


def read_table(run_dir: Path) -> list[Row]:
    """The rows of `manifest.csv` or `manifest.json`; files as `evaluation.manifest` reads them.

    Several photos of a person stand in one cell, with semicolons between them. An empty cell leaves what the graph has.

    Raises:
        ConsisIDError: the file cannot be read; or with a sentence for each wrong row, at most ten.
    """
    file, entries = read_entries(run_dir, (), COLUMNS, _EXAMPLE)
    rows, problems = [], []
    for place, entry in entries:
        try:
            rows.append(_row(place, entry, run_dir))
        except ConsisIDError as error:
            problems.append(str(error))
    if problems:
        raise ConsisIDError(several(file, problems))
    return rows


def several(file: Path | str, problems: list[str]) -> str:
    """One message for the problems of a file's rows, each of which names its row."""
    if len(problems) == 1:
        return problems[0]
    more = f"\nand {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
    return f"{file} has {len(problems)} rows to correct.\n" + "\n".join(problems[:_SHOWN]) + more


def _row(place, entry, run_dir):
    if not isinstance(entry, dict):
        raise ConsisIDError(f"{place} is no object with the names {', '.join(COLUMNS)}.")
    values = {}
    for name, value in entry.items():
        name = str(name).strip()
        if "." not in name and name not in (*COLUMNS, ""):
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            meant = f"did you mean {near[0]!r}" if near else f"there are {', '.join(COLUMNS)}"
            raise ConsisIDError(
                f"{place}: there is no column {name!r}; {meant}? An input of the graph is named with its node: "
                f"'14.{name}'."
            )
        if name == PHOTO and isinstance(value, list):
            value = ";".join(map(str, value))
        if isinstance(value, (dict, list)):
            raise ConsisIDError(f"{place}: {name} must be a text or a number, and is {json.dumps(value)[:80]}.")
        value = value.strip() if isinstance(value, str) else value
        if isinstance(value, str) and "\0" in value:
            raise ConsisIDError(f"{place}: {name} holds a null character, so the file is no plain text. Save it again.")
        if value not in ("", None):
            values[name] = value
    photos = tuple(path.strip() for path in str(values.pop(PHOTO, "")).split(";") if path.strip())
    for path in photos:
        if not (run_dir / path).is_file():
            raise ConsisIDError(f"{place}: there is no photo {path} in {run_dir}. Correct its path, or put it there.")
    return Row(place, photos, values, str(values.pop(SYSTEM, UNNAMED)))
