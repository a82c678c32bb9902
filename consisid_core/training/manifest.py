"""The list of the videos to train on: JSON lines of our own, one video each. `official.py` reads the released layout.

    {"video": "videos/anna.mp4", "caption": "A woman reads a book.", "person": "anna"}

Besides these, a line may have `mask`, a video or a folder of PNG files that is white where the face is; `faces`, a list
of further photos of the person; and `fps`, where the video file states a wrong one. Paths start from the manifest.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError

EXAMPLE = '{"video": "videos/anna.mp4", "caption": "A woman reads a book.", "person": "anna"}'
"""The shortest line that is right."""

_REQUIRED = ("video", "person")
_KEYS = (*_REQUIRED, "caption", "mask", "faces", "fps")
_SHOWN = 10  # wrong lines in one message


class Refused(ConsisIDError):
    """A video that cannot be trained on. The others can."""

    def __init__(self, kind: str, sentence: str):
        """
        Args:
            kind: two or three words that the report counts by, "too short".
            sentence: what is wrong with it, and the cure.
        """
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True)
class Record:
    """One video of a manifest."""

    name: str
    """The video as the manifest names it."""
    video: Path
    caption: str
    """"" where there is none."""
    person: str
    """The same for all videos of one person."""
    mask: Path | None = None
    """A video, or a folder of PNG files with a number each, that is not black where the face is."""
    faces: tuple[Path, ...] = ()
    """Photos of the person besides the video."""
    fps: float | None = None
    """Frames of the video in a second, where the manifest says it."""
    frames: tuple[int, ...] | None = None
    """Positions of the frames that show the person, where annotations say it."""
    refused: Refused | None = None
    """Why its annotations rule it out."""


def read_manifest(path: Path | str) -> list[Record]:
    """The records of a manifest, in its order. Whether files exist is not looked at here.

    Args:
        path: UTF-8 text, one JSON object a line; empty lines are passed over.

    Raises:
        ConsisIDError: it cannot be read or lists no video; or with a sentence for each wrong line, at most ten.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConsisIDError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise ConsisIDError(f"{path} cannot be read ({error.strerror or error}).") from None
    records, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(line, path.parent))
        except ConsisIDError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"\nand {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
        count = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
        raise ConsisIDError(f"{path} has {count} to correct.\n" + "\n".join(problems[:_SHOWN]) + more)
    if not records:
        raise ConsisIDError(f"{path} lists no video. A line looks like this: {EXAMPLE}")
    return records


def _record(line, folder):
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConsisIDError(f"it is not valid JSON ({error}). A line looks like this: {EXAMPLE}") from None
    if not isinstance(entry, dict):
        raise ConsisIDError(f"it is no JSON object. A line looks like this: {EXAMPLE}")
    for key in entry.keys() - set(_KEYS):
        near = difflib.get_close_matches(key, _KEYS, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}."
        raise ConsisIDError(f"there is no {key!r}; {meant}")
    texts = {key: entry[key] for key in ("video", "caption", "person", "mask") if entry.get(key) is not None}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ConsisIDError(f"{key} must be a text, and is {json.dumps(value)[:80]}.")
    for key in _REQUIRED:
        if not texts.get(key, "").strip():
            raise ConsisIDError(f"it has no {key}. A line looks like this: {EXAMPLE}")
    faces = entry.get("faces") or []
    if not isinstance(faces, list) or not all(isinstance(face, str) and face for face in faces):
        raise ConsisIDError(f"faces must be a list of paths, and is {json.dumps(faces)[:80]}.")
    fps = entry.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1000):
        raise ConsisIDError(f"fps must be a number above 0, and is {json.dumps(fps)[:80]}.")
    return Record(
        name=texts["video"],
        video=folder / texts["video"],
        caption=texts.get("caption", "").strip(),
        person=texts["person"].strip(),
        mask=folder / texts["mask"] if texts.get("mask") else None,
        faces=tuple(folder / face for face in faces),
        fps=fps,
    )
