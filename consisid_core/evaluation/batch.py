"""Scores of every video of a run, written down one by one, so that a stopped run goes on where it stopped."""

import hashlib
import json
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import ConsisIDError, in_short
from .scores import VideoScorer
from .video import VideoFile, read_picture

log = logging.getLogger("consisid")

FID_FACES = 16
"""So many faces of each video, at equal distances, enter the true FID of its system."""

_DIGITS = 4  # of a cosine in a plot
_NAME_WIDTH = 32  # characters of a video's path beside the bar


def output_folder(run_dir):
    """Where everything about a run is written."""
    return Path(run_dir) / "evaluation"


def results_file(run_dir, protocol):
    """The file with one JSON line per scored video. Each protocol has its own."""
    return output_folder(run_dir) / f"results_{protocol}.jsonl"


def score_rows(run_dir, rows, models, nets, protocol):
    """The result of every row, in order; those that the file does not hold yet are computed and appended.

    A result in the file counts as long as video and photos (path, size, date), prompt, protocol and nets are those of
    the row. One that failed is tried again. A bar on standard error shows the progress.

    Args:
        run_dir: folder of the manifest.
        rows: list of Row.
        models: EvaluationModels.
        nets: dict of their names, as in every result: pack, curricular_face, inception, clip, stand_ins.
        protocol: "strict" or "paper".

    Returns:
        list of dict, the JSON lines: labels (video, reference, prompt, system, seed), protocol, models, and either
        error, a sentence, or frames, frames_without_face, face_sim_arc, face_sim_cur, clip_score, fid (null where not
        measured; with `_standard_error` in the strict protocol), positions and cosines of the frames, and features:
        the file with those of at most FID_FACES faces and of the photos, for the true FID.

    Raises:
        ConsisIDError: the Inception of the other protocol.
        OSError: a file in `evaluation` cannot be written.
    """
    from tqdm import tqdm

    run_dir = Path(run_dir)
    file = results_file(run_dir, protocol)
    scorer = VideoScorer(models, protocol)

    @lru_cache(maxsize=64)
    def reference(paths):
        return scorer.reference([read_picture(run_dir / path, upright=protocol == "strict") for path in paths])

    done = _read_results(file)
    keys = [_key(run_dir, row, nets, protocol) for row in rows]
    todo = {key: row for key, row in zip(keys, rows, strict=True) if not _is_done(done.get(key), file.parent)}
    if todo:
        file.parent.mkdir(exist_ok=True)
        interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
        form = "{l_bar}{bar}| {n:.1f}/{total} videos [{elapsed}<{remaining}]"
        with (
            open(file, "a", encoding="utf-8") as stream,
            tqdm(total=len(todo), bar_format=form, dynamic_ncols=True, mininterval=interval) as bar,
        ):
            for number, (key, row) in enumerate(todo.items(), start=1):
                bar.set_description_str(row.video[-_NAME_WIDTH:])
                try:
                    figures, features = _measure(run_dir, row, scorer, reference, bar)
                # One bad video must not cost the others, whatever its codec or a net makes of it.
                except Exception as error:
                    figures, features = {"error": _in_words(error, row, run_dir)}, None
                    bar.write(f"{row.video}: {figures['error']}", file=sys.stderr)
                if features:
                    figures["features"] = _keep_features(file.parent, key, *features)
                result = {"key": key, **_labels(row), "protocol": protocol, "models": nets, **figures}
                stream.write(json.dumps(result) + "\n")
                stream.flush()
                done[key] = result
                bar.update(number - bar.n)
    # A system that was renamed in the manifest keeps its scores.
    return [{**done[key], **_labels(row)} for key, row in zip(keys, rows, strict=True)]


def _labels(row):
    return {
        "video": row.video,
        "reference": list(row.references),
        "prompt": row.prompt,
        "system": row.system,
        "seed": row.seed,
    }


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
    unfinished = folder / f"{name}.part"
    with open(unfinished, "wb") as stream:
        np.savez(stream, photos=np.asarray(photos, np.float32), faces=np.asarray(faces[chosen], np.float32))
    os.replace(unfinished, folder / name)
    return name


def _key(run_dir, row, nets, protocol):
    """Changes with everything that a result depends on."""

    def identity(path):
        try:
            stat = os.stat(run_dir / path)
        # ValueError: a name with a zero byte.
        except (OSError, ValueError):
            return path, None, None
        return path, stat.st_size, stat.st_mtime_ns

    parts = [protocol, nets, identity(row.video), [identity(path) for path in row.references], row.prompt]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _is_done(result, folder):
    if result is None or "error" in result:
        return False
    return "features" not in result or (folder / result["features"]).is_file()


def _read_results(file):
    """Key -> result of the file, the last of a key; {} without it. A half-written last line is cut off the file."""
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(file, whole)
    results = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            result = json.loads(line)
            results[result["key"]] = result
        except (ValueError, TypeError, KeyError):
            log.warning("%s: line %d is damaged; its video is computed anew.", file, number)
    return results
