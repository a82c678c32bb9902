"""The layout of the released training data (official models/dataloader.py:615-640, 846-893, data_preprocess/).

    total_train_data.txt      lines "folder of videos,captions.json,folder of annotations"
    captions.json             [{"path", "cap", "fps", "duration", ...}]
    annotations/track_masks_data/VIDEO/{corresponding_data,valid_frame}.json
    annotations/track_masks_data/VIDEO/tracking_mask_results/ID/annotated_frame_00000.png

Heads' boxes (refine_bbox_jsons) are not read: our own face path finds the face.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from ..errors import ConsisIDError
from .manifest import Record, Refused


def read_official(path: Path | str) -> list[Record]:
    """The records of a `total_train_data.txt`. Every video counts as a person of its own: the layout names none.

    Annotations that are missing or show several people refuse their video, not the others.

    Args:
        path: UTF-8 text. Its paths start from the current folder, as in the official code, or from the folder of the
            file or one above it, whichever has them.

    Raises:
        ConsisIDError: it or its captions cannot be read, or it lists no video.
    """
    from tqdm import tqdm

    path = Path(path)
    records = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3:
            raise ConsisIDError(
                f"{path}, line {number}: it has {len(parts)} parts between commas. There are three: the folder of the "
                "videos, the .json file of captions, the folder of annotations."
            )
        videos, captions, annotations = (_find(part, path, number) for part in parts)
        records += [
            _record(entry, videos, annotations)
            for entry in tqdm(_captions(captions), desc=parts[1], unit="video", leave=False, delay=2)
        ]
    if not records:
        raise ConsisIDError(f"{path} lists no video: there is none in its files of captions.")
    return records


def _text(path):
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConsisIDError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise ConsisIDError(f"{path} cannot be read ({error.strerror or error}).") from None


def _find(name, path, number):
    for base in (Path.cwd(), *path.absolute().parents):
        if (base / name).exists():
            return base / name
    raise ConsisIDError(
        f"{path}, line {number}: {name} is neither in the current folder nor beside this file or above it."
    )


def _captions(file):
    try:
        entries = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConsisIDError):
            raise
        raise ConsisIDError(f"{file} is not valid JSON ({error}).") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.get("path") for entry in entries):
        raise ConsisIDError(f'{file} must be a list of objects with a "path" and a "cap" each.')
    return entries


def _record(entry, videos, annotations):
    name = PurePosixPath(str(entry["path"])).name  # Only the name counts, as in the official code.
    stem = name.removesuffix(".mp4")
    fps = entry.get("fps")
    facts = {
        "name": name,
        "video": videos / name,
        "caption": str(entry.get("cap") or "").strip(),
        "person": stem,
        "fps": float(fps) if isinstance(fps, (int, float)) and fps > 0 else None,
    }
    try:
        return Record(**facts, **_annotations(annotations / "track_masks_data" / stem))
    except Refused as refused:
        return Record(**facts, refused=refused)


def _annotations(folder):
    """The mask and the frames of the only person."""
    people = _json(folder / "corresponding_data.json")
    if len(people) != 1:
        raise Refused("two people", f"its annotations have {len(people)} people. Use a video of one person.")
    ((person, tracks),) = people.items()
    frames = _json(folder / "valid_frame.json").get(person)
    try:
        found = tuple(sorted({int(frame) for frame in (*frames["face"], *frames["head"])}))
        face = int(tracks["face"])
    except (KeyError, TypeError, ValueError):
        found = ()
    if not found:
        raise Refused("no face", f"its annotations in {folder} have no face and head of person {person}.")
    mask = folder / "tracking_mask_results" / str(face)
    return {"frames": found, "mask": mask if mask.is_dir() else None}


def _json(file):
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused("annotations", f"its annotations {file} cannot be read ({reason}).") from None
    if not isinstance(content, dict):
        raise Refused("annotations", f"its annotations {file} are no JSON object.")
    return content
