"""The paper's test as a table: every photo of every person with every prompt and seed (appendix 3.5: 30 x 5 x 90)."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from ..errors import ConsisIDError
from ..evaluation.results import whole_file
from .table import COLUMNS, Row, read_table

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SYSTEM = "ConsisID"


def lay_out(run_dir: Path, people: Path, prompts: Path, seeds: int, write: bool = True) -> list[Row]:
    """The rows of a table of all photos, prompts and seeds, photo after photo, and how many of each as a line to read.

    Args:
        run_dir: gets the manifest.csv.
        people: photos, or a folder of photos for each person.
        prompts: a text file, one prompt a line.
        seeds: so many, from 0 on.
        write: whether to write manifest.csv, or only to count.

    Raises:
        ConsisIDError: nothing in one of them, or another manifest is there.
    """
    persons = _persons(people)
    try:
        lines = [line.strip() for line in prompts.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConsisIDError(f"{prompts} is not UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except OSError as error:
        raise ConsisIDError(f"{prompts} cannot be read ({error.strerror or error}).") from None
    if not lines:
        raise ConsisIDError(f"{prompts} holds no prompt. Write one a line.")
    photos = [photo for group in persons for photo in group]
    counts = f"{len(persons)} people, {len(photos)} photos x {len(lines)} prompts x {seeds} seeds"
    print(f"{counts} = {len(photos) * len(lines) * seeds:,} videos")
    cells = [
        (_path(photo, run_dir), prompt, "", seed, _SYSTEM)
        for photo in photos
        for prompt in lines
        for seed in range(seeds)
    ]
    if write:
        _write(run_dir, cells)
        return read_table(run_dir)
    return [Row("", (photo,), {"prompt": prompt, "seed": seed}, _SYSTEM) for photo, prompt, _, seed, _ in cells]


def _persons(people):
    """Lists of photos, one for each person."""
    if not people.is_dir():
        raise ConsisIDError(f"{people} is not a folder. Name one with photos, or with a folder of photos per person.")
    folders = sorted(path for path in people.iterdir() if path.is_dir() and not path.name.startswith("."))
    persons = [[photo] for photo in _photos(people)] + [_photos(folder) for folder in folders]
    persons = [photos for photos in persons if photos]
    if not persons:
        raise ConsisIDError(f"{people} holds no photo ({', '.join(_PHOTOS)}), and no folder in it does.")
    return persons


def _photos(folder):
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _PHOTOS and path.is_file())


def _path(photo, run_dir):
    """From the run's folder on where it lies there, so that the folder may move."""
    photo, run_dir = photo.absolute(), run_dir.absolute()
    return photo.relative_to(run_dir).as_posix() if photo.is_relative_to(run_dir) else os.fspath(photo)


def _write(run_dir, cells):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    writer.writerows(cells)
    file, content = run_dir / "manifest.csv", stream.getvalue().encode()
    if file.is_file():
        if file.read_bytes() != content:
            raise ConsisIDError(
                f"{file} lists other videos than these people, prompts and seeds. Leave out --people, --prompts and "
                "--seeds to go on with it, or name a new folder."
            )
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as unfinished:
            unfinished.write_bytes(content)
    except OSError as error:
        raise ConsisIDError(f"{run_dir} cannot be written ({error.strerror or error}).") from None
