"""Scores of every video of a run, written down one by one, so that a stopped run goes on where it stopped."""

import hashlib
import json
import logging
import os
import random
import sys
from collections import deque
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..errors import ConsisIDError, in_short
from .content import digests
from .manifest import Row
from .models import EvaluationModels
from .results import Results, output_folder, whole_file
from .scores import VideoScorer
from .video import VideoFile, read_picture

log = logging.getLogger("consisid")

FID_FACES = 16
"""So many faces of each video, at equal distances, enter the true FID of its system."""

_DIGITS = 4  # of a cosine in a plot
_NAME_WIDTH = 32  # characters of a video's path beside the bar


@torch.inference_mode()
def score_rows(
    run_dir: Path | str, rows: list[Row], models: EvaluationModels, nets: dict, weights: str, protocol: str
) -> list[dict]:
    """The result of every row, in order; those that are not there yet are computed and written down.

    A result counts as long as protocol, prompt and the contents of video, photos and nets are those of the row. One
    that failed is tried again. Several processes may work on one run: each takes over what the others have written. A
    bar on standard error shows the progress.

    Args:
        run_dir: folder of the manifest.
        rows: of the manifest.
        models: the nets that measure.
        nets: their names, as in every result: pack, curricular_face, inception, clip, stand_ins.
        weights: what tells these nets from others under the same names (`content.fingerprint`).
        protocol: "strict" or "paper".

    Returns:
        The JSON lines: labels (video, reference, prompt, system, seed), protocol, models, and either error, a sentence,
        or frames, frames_without_face, face_sim_arc, face_sim_cur, clip_score, fid (null where not measured; with
        `_standard_error` in the strict protocol), positions and cosines of the frames, and features: the file with
        those of at most FID_FACES faces and of the photos, for the true FID.

    Raises:
        ConsisIDError: the Inception of the other protocol.
        OSError: a file in `evaluation` cannot be written.
    """
    run_dir = Path(run_dir)
    scorer = VideoScorer(models, protocol)
    results = Results(output_folder(run_dir), protocol)
    contents = digests(run_dir / path for row in rows for path in (row.video, *row.references))
    keys = [_key(run_dir, row, contents, weights, protocol) for row in rows]
    todo = {key: row for key, row in zip(keys, rows, strict=True) if not results.is_done(key)}
    if todo:
        _score(run_dir, todo, scorer, results, {"protocol": protocol, "models": nets})
    # A system that was renamed in the manifest keeps its scores.
    return [{**results.by_key[key], **_labels(row)} for key, row in zip(keys, rows, strict=True)]


def _score(run_dir, todo, scorer, results, facts):
    """Fill in the results of key -> row. facts: what all of these results say."""
    from tqdm import tqdm

    @lru_cache(maxsize=64)
    def reference(paths):
        return scorer.reference([read_picture(run_dir / path, upright=scorer.protocol == "strict") for path in paths])

    interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
    form = "{l_bar}{bar}| {n:.1f}/{total} videos [{elapsed}<{remaining}]"
    waiting = deque(todo.items())
    with results.writing(), tqdm(total=len(todo), bar_format=form, dynamic_ncols=True, mininterval=interval) as bar:
        while waiting:
            if results.read_on():
                # Others are at work here. Who goes on in an order of his own seldom meets them at one video.
                waiting = deque((key, row) for key, row in waiting if not results.is_done(key))
                random.shuffle(waiting)
            else:
                key, row = waiting.popleft()
                bar.set_description_str(row.video[-_NAME_WIDTH:])
                figures = _figures(run_dir, key, row, scorer, reference, results.folder, bar)
                results.write({"key": key, **_labels(row), **facts, **figures})
            bar.update(len(todo) - len(waiting) - bar.n)


def _labels(row):
    return {
        "video": row.video,
        "reference": list(row.references),
        "prompt": row.prompt,
        "system": row.system,
        "seed": row.seed,
    }


def _figures(run_dir, key, row, scorer, reference, folder, bar):
    """What a result says of its video: figures, or the error that one bad video costs, not the others."""
    try:
        figures, features = _measure(run_dir, row, scorer, reference, bar)
    # Whatever a codec or a net makes of a video.
    except Exception as error:
        sentence = _in_words(error, row, run_dir)
        bar.write(f"{row.video}: {sentence}", file=sys.stderr)
        return {"error": sentence}
    return figures | ({"features": _keep_features(folder, key, *features)} if features else {})


def _in_words(error, row, run_dir):
    if isinstance(error, ConsisIDError):
        return str(error).replace(f"{run_dir}{os.sep}", "")  # As in the manifest.
    log.debug("%s cannot be scored", row.video, exc_info=error)
    return f"It cannot be scored ({in_short(error)})."


def _measure(run_dir, row, scorer, reference, bar):
    """(figures of a result, features of photos and faces for the true FID or None)."""
    video = VideoFile(run_dir / row.video)
    step = 1 / scorer.frames_to_read(video, row.prompt)
    person = reference(row.references)
    scores = scorer.score(video, person, row.prompt, lambda: bar.update(step))
    face, text = scores.face, scores.text
    figures = {"frames": len(face.arc), "frames_without_face": face.frames_without_face}
    scores = {
        "face_sim_arc": face.score(face.arc),
        "face_sim_cur": None if face.curricular is None else face.score(face.curricular),
        "clip_score": text and text.score,
    }
    for name, score in scores.items():
        figures[name] = score and score.mean
        figures[f"{name}_standard_error"] = score and score.standard_error
    figures["fid"] = face.fid
    broken = [name for name, figure in figures.items() if figure is not None and not np.isfinite(figure)]
    if broken:
        raise ConsisIDError(f"{', '.join(broken)} is no number: the weights that measure it are damaged.")
    figures |= {
        "prompt_cut": bool(text and text.is_prompt_cut),
        "positions": face.positions.tolist(),
        "cosines_arc": _rounded(face.arc),
        "cosines_cur": None if face.curricular is None else _rounded(face.curricular),
    }
    is_true_fid = scorer.models.inception and scorer.protocol == "strict"
    return figures, (person.features, face.features) if is_true_fid else None


def _rounded(cosines):
    """For JSON, which has no NaN."""
    return [None if np.isnan(cosine) else round(float(cosine), _DIGITS) for cosine in cosines]


def _keep_features(folder, key, photos, faces):
    """Write photos [P, 2048] and evenly spaced ones of faces [F, 2048]; the file's path from the folder on."""
    chosen = np.linspace(0, len(faces) - 1, min(FID_FACES, len(faces)), dtype=int)
    name = f"features/{key}.npz"
    (folder / "features").mkdir(exist_ok=True)
    with whole_file(folder / name) as file, open(file, "wb") as stream:
        np.savez(stream, photos=np.asarray(photos, np.float32), faces=np.asarray(faces[chosen], np.float32))
    return name


def _key(run_dir, row, contents, weights, protocol):
    """Changes with everything that a result depends on, and not with the place where the run lies."""

    def identity(path):
        return Path(path).name, contents[run_dir / path] or path

    parts = [protocol, weights, identity(row.video), [identity(path) for path in row.references], row.prompt]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
