"""The scores of a run, by system."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..nets import fid
from ..protocol import Score, mean_score


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
PAPER_FID = Metric("paper_fid", "paper's FID", 2)
"""Mean of the single pictures' distances, by which the paper's tables go. The true FID is no mean of videos."""


def metrics(protocol: str) -> tuple[Metric, ...]:
    """The metrics whose mean over videos a protocol reports."""
    return (*_SCORES, PAPER_FID) if protocol == "paper" else _SCORES


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
    results: list[dict]
    """Of all its videos (`batch.score_rows`), in the order of the manifest."""
    scores: dict[str, Score | None]
    """Metric's key -> Score over the videos that have it, or None."""
    fid: TrueFid | None
    """In the strict protocol, with Inception."""

    @property
    def scored(self) -> list[dict]:
        """The results that did not fail."""
        return [result for result in self.results if "error" not in result]

    @property
    def missing(self) -> int:
        """How many failed."""
        return len(self.results) - len(self.scored)

    @property
    def faceless(self) -> float | None:
        """Share of the frames without a face, 0..1; None without frames."""
        frames = sum(result["frames"] for result in self.scored)
        return sum(result["frames_without_face"] for result in self.scored) / frames if frames else None


def summarise(results: Iterable[dict], protocol: str, folder: Path) -> list[Summary]:
    """The systems of a run, the highest FaceSim-Arc first.

    Args:
        results: of `batch.score_rows`, all of one protocol.
        protocol: "strict" or "paper".
        folder: where their features lie.
    """
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


def figure_of(result: dict, metric: Metric) -> float | None:
    """A video's figure, or None where it was not measured."""
    return result["fid" if metric is PAPER_FID else metric.key]


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
