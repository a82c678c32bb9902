"""Turns the videos of a manifest into a cache. See `--help`."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import ConsisIDError, in_short, is_out_of_memory
from ..evaluation.results import Results
from ..weights.parts import is_disk_full
from .cache import (
    Geometry,
    Index,
    IndexedClip,
    check_nets,
    has_clip,
    read_index,
    write_clip,
    write_empty_text,
    write_index,
)
from .claims import claimed
from .encoders import Encoders
from .examples import ExampleMaker, Settings
from .manifest import Record, Refused, read_manifest
from .net_options import add_net_options, chosen_device, chosen_paths
from .official import read_official
from .report import write_report

log = logging.getLogger("consisid")

_MANIFESTS = ("manifest.jsonl", "total_train_data.txt")
_NAME_WIDTH = 32  # characters of a video's name beside the bar


def _parser():
    defaults, geometry = Settings(), Geometry()
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training prepare",
        description="Runs the videos of MANIFEST once through the nets that training does not train, and keeps what "
        "they say in CACHE. MANIFEST has one JSON object a line with video, caption and person, and if there are any "
        "mask, faces and fps; or it is the total_train_data.txt of the released training data. A video that was "
        "prepared before is not prepared again, and several of these commands may fill one CACHE. CACHE/report.txt "
        "says which videos were refused, and why.",
        epilog="Exit codes: 0 there are clips to train on and nothing is left to do, 1 a problem is named, 2 wrong "
        "usage, 130 stopped with Ctrl-C.",
    )
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="the list of videos, or the folder that has it")
    parser.add_argument("cache", metavar="CACHE", type=Path, help="folder to fill; new, or of an earlier prepare")
    sizes = parser.add_argument_group("clips")
    for name, value, what in (
        ("width", geometry.width, "pixels, a multiple of 16"),
        ("height", geometry.height, "pixels, a multiple of 16"),
        ("frames", geometry.frames, "frames of a clip, 4n+1"),
        ("stride", geometry.stride, "every so many frames of the video one is taken"),
        ("text-length", geometry.text_length, "tokens of a caption"),
        ("clips", defaults.clips, "at most so many of a video, for long ones"),
        ("references", defaults.references, "at most so many photos from inside a clip, and as many from outside"),
        ("variants", defaults.variants, "of the noise on a photo; the first has none"),
    ):
        sizes.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{what} (default: {value})")
    add_net_options(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without `prepare`.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ConsisIDError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = error.filename or options.cache
        cure = " Make room, and run prepare again: what is done is kept." if is_disk_full(error) else ""
        print(f"error: {where}: {error.strerror or error}.{cure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped; the next prepare goes on where this one stopped.", file=sys.stderr)
        return 130
    return 1


def _run(options):
    settings = _settings(options)
    records = read_records(options.manifest)
    _check_folder(options.cache)
    paths = chosen_paths(options)
    encoders = Encoders(paths, chosen_device(options), options.provider, settings.geometry.text_length)
    return prepare(records, options.cache, encoders, paths.fingerprints(), settings)


def _settings(options):
    for name, least in (("width", 16), ("height", 16), ("frames", 1), ("stride", 1), ("text_length", 1), ("clips", 1),
                        ("references", 1), ("variants", 1)):  # fmt: skip
        if getattr(options, name) < least:
            raise ConsisIDError(f"--{name.replace('_', '-')} must be {least} or more.")
    for name in ("width", "height"):
        if (value := getattr(options, name)) % 16:
            raise ConsisIDError(
                f"--{name} {value} is no multiple of 16; the nearest is {max(16, round(value / 16) * 16)}."
            )
    if options.frames % 4 != 1:
        nearest = max(1, round((options.frames - 1) / 4) * 4 + 1)
        raise ConsisIDError(f"--frames {options.frames} is not 4n+1; the nearest is {nearest}.")
    geometry = Geometry(options.width, options.height, options.frames, options.stride, options.text_length)
    return Settings(geometry, options.clips, options.references, options.variants)


def read_records(path: Path | str) -> list[Record]:
    """The records of a manifest of either layout.

    Args:
        path: the file, or a folder that has it as `manifest.jsonl` or `total_train_data.txt`.

    Raises:
        ConsisIDError: there is none, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in _MANIFESTS if (path / name).is_file()]
        if len(files) != 1:
            found = "both" if files else "neither"
            raise ConsisIDError(f"{path} holds {found} {' and '.join(_MANIFESTS)}. Name the file.")
        (path,) = files
    elif not path.is_file():
        raise ConsisIDError(f"{path} does not exist. Name the manifest of the videos to train on.")
    with open(path, "rb") as stream:
        start = next((line.strip() for line in stream if line.strip()), b"")
    return read_official(path) if start and b"{" not in start and start.count(b",") == 2 else read_manifest(path)


def _check_folder(folder):
    """Refuse to write between other people's files."""
    if folder.exists() and not folder.is_dir():
        raise ConsisIDError(f"{folder} is a file. Name a folder for the cache.")
    if folder.is_dir() and read_index(folder) is None and any(folder.iterdir()) and not (folder / _LOCKS).is_dir():
        raise ConsisIDError(f"{folder} is neither empty nor a cache. Name another folder for the cache.")


_LOCKS = "locks"


def prepare(
    records: Sequence[Record], folder: Path, encoders: Encoders, nets: dict[str, str], settings: Settings
) -> int:
    """Prepare what no other process is preparing, and write index and report.

    Args:
        records: of the manifest.
        folder: of the cache.
        encoders: the nets.
        nets: their fingerprints.
        settings: what is made of each video.

    Returns:
        The exit code, as `--help` explains it.

    Raises:
        ConsisIDError: the cache was made for another size or with other nets, or the memory does not suffice.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder / _LOCKS / "index", wait=True):
        _begin(folder, encoders, nets, settings.geometry)
    results = Results(folder, "clips")
    keys = {_key(record, settings): record for record in records}
    try:
        with results.writing():
            _work(keys, folder, ExampleMaker(encoders, settings), results)
    finally:
        with claimed(folder / _LOCKS / "index", wait=True):
            results.read_on()
            found = [results.by_key[key] for key in keys if key in results.by_key]
            clips = tuple(IndexedClip(**clip) for result in found for clip in result.get("clips", ()))
            missing = len(keys) - len(found)
            write_index(folder, Index(settings.geometry, nets, encoders.is_demo, clips, missing))
            text = write_report(folder, found, missing)
    print(text, end="")
    if not clips:
        print(
            f"error: not one of {len(keys)} videos can be trained on; {folder / 'report.txt'} says why.",
            file=sys.stderr,
        )
    return 0 if clips and not missing else 1


def _begin(folder, encoders, nets, geometry):
    """Write the index of a new cache, or compare that of an old one."""
    import torch

    index = read_index(folder)
    if index is None:
        with torch.inference_mode():
            write_empty_text(folder, encoders.encode_text("")[0])
        write_index(folder, Index(geometry, nets, encoders.is_demo, clips=(), missing=0))
        return
    check_nets(index.nets, nets, folder)
    if index.geometry != geometry:
        differing = ", ".join(
            f"{name} {value} there and {getattr(geometry, name)} here"
            for name, value in asdict(index.geometry).items()
            if value != getattr(geometry, name)
        )
        raise ConsisIDError(
            f"The cache {folder} was prepared for other clips: {differing}. Give the same numbers, or name an empty "
            "folder."
        )


def _work(keys, folder, maker, results):
    """Prepare what is left until others are at work on the rest."""
    from tqdm import tqdm

    waiting = deque(key for key in keys if not _is_done(results, folder, key))
    interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
    form = "{l_bar}{bar}| {n}/{total} videos [{elapsed}<{remaining}]"
    with tqdm(total=len(waiting), bar_format=form, dynamic_ncols=True, mininterval=interval) as bar:
        others = 0  # Claimed by others, one after the other: all of them, and there is nothing left to do here.
        while waiting and others < len(waiting):
            key = waiting.popleft()
            bar.set_description_str(keys[key].name[-_NAME_WIDTH:])
            with claimed(folder / _LOCKS / key) as is_mine:
                if is_mine:
                    results.read_on()
                if is_mine and not _is_done(results, folder, key):
                    result = _prepared(keys[key], key, folder, maker)
                    results.write({"key": key, "name": keys[key].name, **result})
                    if problem := result.get("refused") or result.get("error"):
                        bar.write(f"{keys[key].name}: {problem}", file=sys.stderr)
            if is_mine:
                others = 0
                bar.update()
            else:
                waiting.append(key)
                others += 1


def _is_done(results, folder, key):
    return results.is_done(key) and all(has_clip(folder, clip["key"]) for clip in results.by_key[key].get("clips", ()))


def _prepared(record, key, folder, maker):
    """What a result says of a video: its clips, or why it is refused, or what failed and is tried again next time."""
    import torch

    for unfinished in (folder / "clips").glob(f"{key}*.part"):  # Of a process that was killed.
        unfinished.unlink(missing_ok=True)
    clips, notes = [], []
    examples = maker.examples(record, seed=int(key[:15], 16))
    while True:
        try:
            with torch.inference_mode():
                example = next(examples, None)
        except Refused as refused:
            how = "error" if refused.kind == "unreadable" else "refused"
            return {"kind": refused.kind, how: str(refused)}
        # Whatever a codec or a net makes of a video.
        except Exception as error:
            if is_out_of_memory(error):
                raise ConsisIDError(
                    f"{record.name}: the memory does not suffice. Close other programs, or prepare with --device cpu "
                    "or smaller clips; what is done is kept."
                ) from None
            log.debug("%s cannot be prepared", record.name, exc_info=error)
            return {"kind": "failed", "error": f"it cannot be prepared ({in_short(error)})."}
        if example is None:
            return {"clips": clips, "notes": list(dict.fromkeys(notes))}
        clip, remarks = example
        clips.append(asdict(write_clip(folder, f"{key}-{len(clips) + 1}" if clips else key, clip)))
        notes += remarks


def _key(record, settings):
    """Changes with everything in the manifest that a clip depends on, and with the sizes of its files.

    Not with their contents, which would have to be read at every start, nor their dates, which a copy changes.
    """
    sizes = [_size(path) for path in (record.video, record.mask, *record.faces) if path]
    parts = [record.name, record.caption, record.person, record.frames, sizes, asdict(settings)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _size(path):
    """Bytes of a file, or of all files of a folder; None of what is missing."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return sorted((entry.name, entry.stat().st_size) for entry in entries)
        return path.stat().st_size
    # ValueError: a name with a zero byte.
    except (OSError, ValueError):
        return None
