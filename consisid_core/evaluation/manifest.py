"""The list of the videos of a run: `manifest.csv` or `manifest.json` in its folder."""

import codecs
import csv
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError

log = logging.getLogger("consisid")

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
    """The rows of `manifest.csv`, or of `manifest.json`: a list of objects, or one object per line.

    UTF-8, or UTF-16 with its mark. A CSV file may have commas, semicolons or tabs between its columns, and empty rows,
    as spreadsheet programs write them. Columns that are not read are named in the log. A file that a row names is not
    looked for here.

    Raises:
        ConsisIDError: naming the file and the line or entry: none, both, empty, without a needed column or value, with
            two columns of one name, or not readable.
    """
    file, entries = read_entries(run_dir, _REQUIRED, _COLUMNS, _EXAMPLE)
    rows = [_row(entry, place) for place, entry in entries]
    ignored = sorted({name for _, entry in entries for name in entry} - {*_COLUMNS, ""})
    if ignored:
        log.warning("%s has columns that are not read: %s.", file, ", ".join(ignored))
    return rows


def read_entries(
    run_dir: Path | str, required: Sequence[str], columns: Sequence[str], example: str
) -> tuple[Path, list[tuple[str, object]]]:
    """The entries of a folder's `manifest.csv` or `manifest.json`, whatever they are about.

    Args:
        run_dir: the folder.
        required: columns that a CSV file must have.
        columns: of which a CSV file may have one each; names are in lower case.
        example: sentences for messages that show a manifest which is right.

    Returns:
        The file; and for each entry the place for messages ("…, line 3"), and of a CSV file column -> text, of a JSON
        file whatever stands there.

    Raises:
        ConsisIDError: as for `read_manifest`.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ConsisIDError(f"{run_dir} is not a folder. Name the folder that holds manifest.csv and the videos.")
    files = [file for file in (run_dir / "manifest.csv", run_dir / "manifest.json") if file.is_file()]
    if not files:
        raise ConsisIDError(f"{run_dir} holds no manifest.csv. {example}")
    if len(files) > 1:
        raise ConsisIDError(f"{run_dir} holds both manifest.csv and manifest.json. Remove or rename one.")
    (file,) = files
    try:
        is_csv = file.suffix == ".csv"
        entries = list(_read_csv(file, required, columns, example) if is_csv else _read_json(file))
    except OSError as error:
        raise ConsisIDError(f"{file} cannot be read ({error.strerror or error}).") from None
    if not entries:
        raise ConsisIDError(f"{file} lists no video. {example}")
    return file, entries


def _text(file):
    """The text of a manifest."""
    content = file.read_bytes()
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConsisIDError(
            f'{file}, line {line} is not UTF-8 ({error.reason}). Save it as UTF-8; Excel calls that "CSV UTF-8".'
        ) from None


def _read_csv(file, required, columns, example):
    """(place for messages, column -> text) of each line."""
    lines = _csv_lines(file)
    place, names = next(lines, (file, []))
    names = [name.strip().lower() for name in names]
    while names and not names[-1]:  # A spreadsheet's empty columns.
        names.pop()
    missing = [name for name in required if name not in names]
    if missing:
        found = f"it has {', '.join(map(repr, names))}" if names else "it is empty"
        raise ConsisIDError(f"{file} has no column {' and no column '.join(missing)}; {found}. {example}")
    doubled = [name for name in columns if names.count(name) > 1]
    if doubled:
        raise ConsisIDError(f"{place} has several columns named {' and '.join(doubled)}. Keep one of each.")
    for place, values in lines:
        if any(value.strip() for value in values[len(names) :]):
            raise ConsisIDError(
                f"{place} has more values than there are columns. Put a text with commas, or with whatever else stands "
                "between the columns, into double quotes."
            )
        yield place, dict(zip(names, values, strict=False))


def _csv_lines(file) -> Iterator[tuple[str, list[str]]]:
    """(place for messages, values) of each line that is not blank; spreadsheets write an empty row as bare commas."""
    text = _text(file)
    header = next(iter(text.strip().splitlines()), "")
    delimiter = max(",;\t", key=header.count)  # Spreadsheets write semicolons where a comma is the decimal sign.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        place = f"{file}, line {reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise ConsisIDError(
                f"{place} is not readable as CSV ({error}). A text with commas, line breaks or quotes stands in double "
                'quotes, and a quote in it is written "".'
            ) from None
        if values is None:
            return
        if any(value.strip() for value in values):
            yield place, values


def _read_json(file):
    """(place for messages, object) of each entry."""
    text = _text(file)
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
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        raise ConsisIDError(
            f"{place} is not valid JSON: {error}. It must be a list of objects, or one object per line."
        ) from None
    except RecursionError:
        raise ConsisIDError(f"{place} is not valid JSON: it is nested too deeply.") from None


def _object(pairs):
    """A JSON object, of which Python itself would keep the last of two values that have one name."""
    values = dict(pairs)
    for name, _ in pairs[:-1]:
        if sum(name == other for other, _ in pairs) > 1:
            raise ValueError(f"an object has several values named {name!r}")
    return values


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
        if "\0" in texts[name]:
            raise ConsisIDError(f"{place}: {name} holds a null character, so the file is no plain text. Save it again.")
    references = tuple(path.strip() for path in texts["reference"].split(";") if path.strip())
    for name, value in (("video", texts["video"]), ("reference", references)):
        if not value:
            raise ConsisIDError(f"{place} has no {name}. Every video needs its own file and a photo of the person.")
    return Row(texts["video"], references, texts["prompt"], texts["system"] or UNNAMED, texts["seed"])
