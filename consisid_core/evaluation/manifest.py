"""The list of the videos of a run: `manifest.csv` or `manifest.json` in its folder."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError

UNNAMED = "unnamed"
"""System of the videos whose manifest names none."""

_COLUMNS = ("video", "reference", "prompt", "system", "seed")
_REQUIRED = ("video", "reference")
_EXAMPLE = (
    'Its first line names the columns, "video,reference,prompt,system,seed", of which video and reference are needed; '
    'then one line per video, e.g. "videos/0001.mp4,photos/anna.png,A woman reads a book.,ConsisID,42". Paths start '
    "from the folder of the manifest. A manifest.json is a list of objects with these names."
)


@dataclass(frozen=True)
class Row:
    """One video to be scored. Paths are as the manifest has them: absolute, or from its folder on."""

    video: str
    references: tuple[str, ...]
    """One photo of the person or, for the strict protocol, several."""
    prompt: str
    system: str
    """What made the video."""
    seed: str


def read_manifest(run_dir: Path | str) -> list[Row]:
    """The rows of `manifest.csv`, or of `manifest.json`: a list of objects, or one object per line. UTF-8.

    A file that a row names is not looked for here.

    Raises:
        ConsisIDError: naming the file and the line or entry: none, both, empty, without a needed column or value, or
            not readable.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ConsisIDError(f"{run_dir} is not a folder. Name the folder that holds manifest.csv and the videos.")
    files = [file for file in (run_dir / "manifest.csv", run_dir / "manifest.json") if file.is_file()]
    if not files:
        raise ConsisIDError(f"{run_dir} holds no manifest.csv. {_EXAMPLE}")
    if len(files) > 1:
        raise ConsisIDError(f"{run_dir} holds both manifest.csv and manifest.json. Remove or rename one.")
    (file,) = files
    try:
        read = _read_csv if file.suffix == ".csv" else _read_json
        rows = [_row(entry, place) for place, entry in read(file)]
    except UnicodeDecodeError as error:
        raise ConsisIDError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise ConsisIDError(f"{file} cannot be read ({error.strerror or error}).") from None
    if not rows:
        raise ConsisIDError(f"{file} lists no video. {_EXAMPLE}")
    return rows


def _read_csv(file):
    """(place for messages, column -> text) of each line."""
    with open(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            missing = [name for name in _REQUIRED if name not in reader.fieldnames]
            if missing:
                found = f"it has {', '.join(map(repr, reader.fieldnames))}" if reader.fieldnames else "it is empty"
                raise ConsisIDError(f"{file} has no column {' and no column '.join(missing)}; {found}. {_EXAMPLE}")
            for entry in reader:
                place = f"{file}, line {reader.line_num}"
                if None in entry:
                    raise ConsisIDError(
                        f"{place} has more values than there are columns. Put a text with commas into double quotes."
                    )
                yield place, entry
        except csv.Error as error:
            raise ConsisIDError(
                f"{file}, line {reader.line_num} is not readable as CSV ({error}). A text with commas, line breaks or "
                'quotes stands in double quotes, and a quote in it is written "".'
            ) from None


def _read_json(file):
    """(place for messages, object) of each entry."""
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                place = f"{file}, line {number}"
                yield place, _parsed(line, place)
        return
    for number, entry in enumerate(_parsed(text, str(file)), start=1):
        yield f"{file}, entry {number}", entry


def _parsed(text, place):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConsisIDError(
            f"{place} is not valid JSON: {error}. It must be a list of objects, or one object per line."
        ) from None
    except RecursionError:
        raise ConsisIDError(f"{place} is not valid JSON: it is nested too deeply.") from None


def _row(entry, place):
    if not isinstance(entry, dict):
        raise ConsisIDError(f"{place} is no object with the names {', '.join(_COLUMNS)}.")
    if isinstance(entry.get("reference"), list):
        entry = {**entry, "reference": ";".join(map(str, entry["reference"]))}
    texts = {}
    for name in _COLUMNS:
        value = entry.get(name)
        if isinstance(value, (dict, list, bool)):
            raise ConsisIDError(f"{place}: {name} must be a text, and is {json.dumps(value)[:80]}.")
        texts[name] = "" if value is None else str(value).strip()
    references = tuple(path.strip() for path in texts["reference"].split(";") if path.strip())
    for name, value in (("video", texts["video"]), ("reference", references)):
        if not value:
            raise ConsisIDError(f"{place} has no {name}. Every video needs its own file and a photo of the person.")
    return Row(texts["video"], references, texts["prompt"], texts["system"] or UNNAMED, texts["seed"])
