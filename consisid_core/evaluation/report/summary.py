"""The scores of a run by system, and how they are said: shared by every form of the report."""

from dataclasses import dataclass

import numpy as np

from ..batch import FID_FACES
from ..face_similarity import mean_score
from ..models import PAPER_PACK
from ..nets import fid

NONE = "–"
"""Stands for a figure that there is not."""

_RULES = {
    "strict": "every frame; the face that matches best; a frame without a face counts 0",
    "paper": "as the paper's code computes it. Faces: 16 frames, the largest face, negative cosines raised to 0, "
    "frames without a face left out. CLIPScore: 16 frames, red and blue exchanged",
}


@dataclass(frozen=True)
class Metric:
    """A figure of every video, and how its mean is called and printed."""

    key: str
    """In the results and, with endings, in the CSV file."""
    name: str
    digits: int


_SCORES = (
    Metric("face_sim_arc", "FaceSim-Arc", 3),
    Metric("face_sim_cur", "FaceSim-Cur", 3),
    Metric("clip_score", "CLIPScore", 2),
)
_PAPER_FID = Metric("paper_fid", "paper's FID", 2)
"""Mean of the single pictures' distances, by which the paper's tables go. The true FID is no mean of videos."""


def metrics(protocol):
    """The metrics whose mean over videos a protocol reports."""
    return (*_SCORES, _PAPER_FID) if protocol == "paper" else _SCORES


@dataclass(frozen=True)
class TrueFid:
    """Fréchet distance of a system's faces to those of the photos."""

    value: float | None
    """None for fewer than two photos or faces."""
    photos: int
    faces: int


@dataclass(frozen=True, eq=False)
class Summary:
    """One system over its videos."""

    system: str
    results: list
    """Of all its videos (`batch.score_rows`), in the order of the manifest."""
    scores: dict
    """Metric's key -> Score over the videos that have it, or None."""
    fid: TrueFid | None
    """In the strict protocol, with Inception."""

    @property
    def scored(self):
        return [result for result in self.results if "error" not in result]

    @property
    def missing(self):
        return len(self.results) - len(self.scored)

    @property
    def faceless(self):
        """Share of the frames without a face, 0..1; None without frames."""
        frames = sum(result["frames"] for result in self.scored)
        return sum(result["frames_without_face"] for result in self.scored) / frames if frames else None


def summarise(results, protocol, folder):
    """List of Summary, the highest FaceSim-Arc first. results: of one protocol; folder: where their features lie."""
    systems = {}
    for result in results:
        systems.setdefault(result["system"], []).append(result)
    summaries = []
    for system, own in systems.items():
        scored = [result for result in own if "error" not in result]
        scores = {}
        for metric in metrics(protocol):
            values = [figure_of(result, metric) for result in scored]
            values = [value for value in values if value is not None]
            scores[metric.key] = mean_score(values) if values else None
        summaries.append(Summary(system, own, scores, _true_fid(scored, folder)))
    return sorted(summaries, key=lambda s: (-s.scores["face_sim_arc"].mean if s.scored else np.inf, s.system))


def figure_of(result, metric):
    """A video's figure, or None where it was not measured."""
    return result["fid" if metric is _PAPER_FID else metric.key]


def _true_fid(scored, folder):
    """TrueFid of the faces that were kept; each photo counts once however many videos it was used for."""
    photos, faces = {}, []
    for result in scored:
        if "features" in result:
            with np.load(folder / result["features"]) as features:
                photos.update(zip(result["reference"], features["photos"], strict=True))
                faces.append(features["faces"])
    if not faces:
        return None
    photos, faces = np.stack(list(photos.values())), np.concatenate(faces)
    enough = min(len(photos), len(faces)) >= 2
    return TrueFid(fid.frechet_distance(photos, faces) if enough else None, len(photos), len(faces))


def notes_of(summaries, nets, protocol):
    """What a reader has to know, a sentence each; the first ones are the most important."""
    notes = []
    if nets["stand_ins"]:
        notes.append(f"Demo weights, no real measure: {', '.join(nets['stand_ins'])}.")
    notes.append(f"Protocol {protocol}: {_RULES[protocol]}.")
    nets_of = {
        "FaceSim-Arc": f"insightface pack {nets['pack']}",
        "FaceSim-Cur": nets["curricular_face"],
        "CLIPScore": nets["clip"],
        "FID": nets["inception"],
    }
    notes.append("Measured by " + ", ".join(f"{net} ({score})" for score, net in nets_of.items() if net) + ".")
    if left_out := [score for score, net in nets_of.items() if not net]:
        notes.append(f"Not measured: {', '.join(left_out)}.")
    notes.append(
        "n: videos with scores. missing: videos without, which no mean includes. ±: standard error of the mean over "
        "videos."
    )
    if protocol == "paper" and nets["pack"] != PAPER_PACK:
        notes.append(f"The paper measures by {PAPER_PACK}: figures by {nets['pack']} do not compare with its tables.")
    if protocol == "paper" and nets["inception"]:
        notes.append(f"The {_PAPER_FID.name} is a squared distance of single pictures, no Fréchet distance of sets.")
    if fids := [summary.fid for summary in summaries if summary.fid]:
        notes.append(
            f"FID: the true Fréchet distance of at most {FID_FACES} faces of each video to the faces of all photos; in "
            "brackets the numbers of faces and photos."
        )
        if min(min(one.photos, one.faces) for one in fids) < fid.RELIABLE_SAMPLES:
            notes.append(
                f"Warning: below {fid.RELIABLE_SAMPLES} pictures in either set FID depends on their number. Compare "
                "systems only by sets of one size and the same photos."
            )
    cut = sum(result["prompt_cut"] for summary in summaries for result in summary.scored)
    if cut:
        notes.append(f"{cut} prompts are longer than CLIP reads; their ends did not count.")
    return notes


def number(value, digits):
    """With so many digits behind the point, or NONE."""
    return NONE if value is None else f"{value:.{digits}f}"


def _mean(score, digits, count, plus_minus=" ± "):
    """A Score as "0.712 ± 0.008", with its n where that is not the n of the row."""
    if score is None:
        return NONE
    error = "" if score.standard_error is None else f"{plus_minus}{score.standard_error:.{digits}f}"
    return f"{score.mean:.{digits}f}{error}" + (f" (n = {score.count})" if score.count != count else "")


def summary_table(summaries, protocol, plus_minus=" ± "):
    """(names of the columns, a list of cells for each system)."""
    shown = [metric for metric in metrics(protocol) if any(summary.scores[metric.key] for summary in summaries)]
    has_fid = any(summary.fid for summary in summaries)
    head = ["system", "n", "missing", "frames without a face", *(metric.name for metric in shown)]
    rows = []
    for summary in summaries:
        count = len(summary.scored)
        cells = [summary.system, str(count), str(summary.missing), _share(summary.faceless)]
        cells += [_mean(summary.scores[metric.key], metric.digits, count, plus_minus) for metric in shown]
        if has_fid:
            cells.append(NONE if summary.fid is None else _fid_cell(summary.fid))
        rows.append(cells)
    return head + ["FID (faces, photos)"] * has_fid, rows


def _fid_cell(one):
    return f"{number(one.value, 2)} ({one.faces}, {one.photos})"


def _share(share):
    return NONE if share is None else f"{share:.1%}"


def beside(protocol, nets):
    """How own figures stand to the paper's tables, to be said above these."""
    if protocol == "strict":
        return (
            "The figures above are measured otherwise, by the strict protocol: they do not compare with these tables. "
            "--protocol paper gives figures that are computed as these were."
        )
    if nets["pack"] != PAPER_PACK or nets["stand_ins"]:
        return "The figures above are computed as these were, but by other nets: they do not compare with these tables."
    return (
        "The figures above are computed as these were. They compare only where people, photos and prompts are the same."
    )


def paper_table(table):
    """(names of the columns, a list of cells for each row) as printed in the paper."""
    digits = [0 if name.startswith("seconds") else 2 for name in table.columns]
    rows = [
        [name, *(f"{value:.{d}f}" for value, d in zip(values, digits, strict=True))]
        if values
        else [name, "unstable", *[NONE] * (len(table.columns) - 1)]
        for name, values in table.rows
    ]
    return ["", *table.columns], rows
