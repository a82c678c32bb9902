"""A folder of clips of synthetic people, made by several processes, in any number of starts, with the same bytes.

    OUT/manifest.jsonl          what the trainer reads: a line for each clip
    OUT/facts.jsonl             for the same clips: what is to be seen, label maps, landmarks
    OUT/data_card.md            what the set holds, counted
    OUT/people/00000/           one person: person.json, clips.jsonl, and 000.mp4, 000.mask.mkv, 000.labels.mkv, ...

A person's folder appears when it is complete, so a second start makes the missing ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..errors import ConsisIDError
from . import data_card, video_files
from .clip import FPS, FRAMES, make_clip
from .head import Head
from .labels import FACE
from .person import sample_person
from .processes import follow_parent
from .renderer import Renderer

LARGEST = 1024
SMALLEST = 32
"""Pixels on a side."""

_LEFT_BEHIND_SECONDS = 3600


@dataclass(frozen=True)
class Settings:
    """What decides the content of a set, besides the number of people."""

    clips: int
    """Of each person."""
    width: int
    height: int
    frames: int = FRAMES
    seed: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            ConsisIDError: a number that makes no sense.
        """
        for name in ("width", "height"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise ConsisIDError(
                    f"The {name} is {getattr(self, name)} pixels. Choose {SMALLEST} to {LARGEST}, e.g. --size 96x96."
                )
        for name in ("clips", "frames"):
            if getattr(self, name) < 1:
                raise ConsisIDError(f"--{name} is {getattr(self, name)}. Choose 1 or more.")
        if self.seed < 0:
            raise ConsisIDError(f"--seed is {self.seed}. Choose 0 or more.")


def person_generator(seed: int, person: int) -> np.random.Generator:
    """Random numbers that decide a person: the same however many others there are."""
    # numpy pads entropy with zeros, so that (seed, person) alone would equal (seed, person, 0).
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(person,)))


def clip_generator(seed: int, person: int, clip: int) -> np.random.Generator:
    """Random numbers that decide one clip of a person."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(person, clip)))


def write_dataset(
    out: Path | str, people: int, settings: Settings, workers: int = 1, head_data: Path | None = None
) -> list[dict]:
    """Makes the people that are missing in the folder, then its manifest, facts and data card.

    Args:
        out: the folder; made where needed.
        people: how many the set shall hold. More than last time adds people.
        settings: everything else.
        workers: processes at work.
        head_data: as in `Head.load`.

    Returns:
        The contents of person.json of each.

    Raises:
        ConsisIDError: the folder holds a set of other settings, or something else.
        OSError: something cannot be written.
    """
    if people < 1 or workers < 1:
        name, number = ("people", people) if people < 1 else ("workers", workers)
        raise ConsisIDError(f"--{name} is {number}. Choose 1 or more.")
    out = Path(out)
    _claim(out, settings)
    head = Head.load(head_data)
    missing = [number for number in range(people) if not _folder(out, number).is_dir()]
    with _progress(settings.clips * people, settings.clips * (people - len(missing))) as advance:
        if missing:
            # The first one compiles the renderer, which the other processes then find in numba's cache.
            advance(_Maker(out, settings, head).make(missing.pop(0)))
        for done in _make_all(out, settings, head, head_data, missing, workers):
            advance(done)
    return _summarise(out, people, settings)


class _Maker:
    """Makes people, one after the other."""

    def __init__(self, out, settings, head):
        self.out, self.settings, self.head = out, settings, head
        self.renderer = Renderer(head, settings.height, settings.width)

    def make(self, number):
        """Writes one person's folder; returns the number of clips."""
        unfinished = self.out / "people" / f".{number:05d}.{os.getpid()}"
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            self._write(number, unfinished)
            try:
                unfinished.rename(_folder(self.out, number))
            except OSError:
                if not _folder(self.out, number).is_dir():  # Else another run was faster, with the same bytes.
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return self.settings.clips

    def _write(self, number, folder):
        seed = self.settings.seed
        person = sample_person(self.head, person_generator(seed, number))
        said = {"years": round(person.years, 1), "woman": person.woman, "ancestry": person.ancestry}
        _write_text(folder / "person.json", json.dumps({**asdict(person.words), **said}) + "\n")
        lines = []
        for index in range(self.settings.clips):
            rng = clip_generator(seed, number, index)
            clip = make_clip(self.head, self.renderer, person, rng, self.settings.frames)
            video_files.write_pictures(folder / f"{index:03d}.mp4", clip.frames, FPS)
            video_files.write_labels(folder / f"{index:03d}.labels.mkv", clip.labels, FPS)
            mask = np.isin(clip.labels, FACE).astype(np.uint8) * 255
            video_files.write_labels(folder / f"{index:03d}.mask.mkv", mask, FPS)
            landmarks = [[[round(float(value), 2) for value in point] for point in face] for face in clip.landmarks]
            lines.append(json.dumps({"caption": clip.caption, "facts": clip.facts, "landmarks": landmarks}))
        _write_text(folder / "clips.jsonl", "\n".join(lines) + "\n")


def _make_all(out, settings, head, head_data, numbers, workers) -> Iterator[int]:
    """Makes people; yields the clips of each as it is done."""
    if workers == 1 or len(numbers) < 2:
        maker = _Maker(out, settings, head)
        yield from map(maker.make, numbers)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(numbers)), get_context("spawn"), _start_worker, (out, settings, head_data)
    )  # fmt: skip
    try:
        for future in as_completed([pool.submit(_work, number) for number in numbers]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_maker: _Maker | None = None  # of this process


def _start_worker(out, settings, head_data):
    global _maker
    follow_parent()
    _maker = _Maker(out, settings, Head.load(head_data))


def _work(number):
    return _maker.make(number)


def _folder(out, number):
    return out / "people" / f"{number:05d}"


def _claim(out, settings):
    """Notes the settings in a new folder; refuses one that has others or was not made by this command."""
    file = out / "settings.json"
    if not file.is_file():
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise ConsisIDError(f"{out} is not empty and holds no set of synthetic people. Name a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        _write_text(file, json.dumps(asdict(settings), indent=2) + "\n")
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ConsisIDError(f"{file} is damaged. Delete the folder, or name a new one.") from None
    wanted = asdict(settings)
    differing = [name for name in wanted if there.get(name) != wanted[name]]
    if differing:
        texts = (f"{name} {there.get(name)}, not {wanted[name]}" for name in differing)
        raise ConsisIDError(f"{out} holds a set with {'; '.join(texts)}. Use the same numbers, or name a new folder.")
    for folder in (out / "people").glob(".*"):  # of runs that were killed
        if time.time() - folder.stat().st_mtime > _LEFT_BEHIND_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress(total, done):
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
    with tqdm(total=total, initial=done, unit="clip", dynamic_ncols=True, mininterval=interval) as bar:
        yield bar.update


def _summarise(out, people, settings):
    manifest, facts, persons = [], [], []
    for number in range(people):
        folder = _folder(out, number)
        name = f"people/{folder.name}"
        persons.append(json.loads((folder / "person.json").read_text(encoding="utf-8")))
        clips = (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()
        for index, clip in enumerate(map(json.loads, clips)):
            stem = f"{name}/{index:03d}"
            shared = {"video": f"{stem}.mp4", "person": folder.name}
            # The trainer's manifest knows no other keys.
            manifest.append({**shared, "caption": clip["caption"], "mask": f"{stem}.mask.mkv", "fps": FPS})
            facts.append(
                {**shared, "labels": f"{stem}.labels.mkv", **clip["facts"], "landmarks": clip["landmarks"]}
            )  # fmt: skip
    _write_text(out / "facts.jsonl", "".join(json.dumps(line) + "\n" for line in facts))
    _write_text(out / "data_card.md", data_card.text(persons, facts, asdict(settings)))
    _write_text(out / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in manifest))
    return persons


def _write_text(file, text):
    """Writes a text that appears only as a whole."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    os.replace(unfinished, file)
