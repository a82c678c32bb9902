"""All scores of one video, and their report in words: the calls behind the nodes, the command line and scripts.

models = load_models("models/insightface/models/buffalo_l", resolve_providers("auto"))
scorer = VideoScorer(models, "strict")
person = scorer.reference([read_picture("photo.jpg", upright=True)])
print("\\n".join(report_lines(scorer.score(VideoFile("video.mp4"), person), models)))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .face_similarity import FaceScorer, FaceSimilarity, Reference, frame_positions
from .models import PAPER_PACK, EvaluationModels
from .nets.clip_score import TextSimilarity, text_positions
from .nets.fid import RELIABLE_SAMPLES
from .protocol import Score
from .video import FrameBatch, VideoFile

_FACE_RULES = {
    "strict": "every frame, the face that matches best, a frame without a face counts 0",
    "paper": "as the paper's code: 16 frames, the largest face, frames without a face left out",
}
_TEXT_RULES = {
    "strict": "every frame",
    "paper": "as the paper's code: 16 frames, red and blue exchanged",
}


@dataclass(frozen=True, eq=False)
class VideoScores:
    """What was measured of one video, all of it by one protocol."""

    face: FaceSimilarity | None
    """None where only the prompt was of interest."""
    text: TextSimilarity | None
    """None without a prompt or without CLIP."""

    @property
    def protocol(self) -> str:
        """By which the figures were measured."""
        return (self.face or self.text).protocol


class VideoScorer:
    """Everything that one protocol measures, for one person after the other and any number of videos of each."""

    def __init__(self, models: EvaluationModels, protocol: str) -> None:
        """
        Args:
            models: the nets.
            protocol: "strict" or "paper".

        Raises:
            ConsisIDError: unknown protocol, or the Inception of the other one.
        """
        self.models, self.protocol = models, protocol
        self.faces = FaceScorer(models.detector, protocol, models.curricular_face, models.inception)

    def reference(self, photos: Sequence[np.ndarray]) -> Reference:
        """The person in photos, each [H, W, 3] uint8 RGB: `FaceScorer.reference`."""
        return self.faces.reference(photos)

    def frames_to_read(self, video: VideoFile | FrameBatch, prompt: str = "") -> int:
        """How often `score` calls on_frame, for a progress bar. Fewer times where frames of a file cannot be read."""
        faces = frame_positions(self.protocol, video.frame_count)
        return len(faces) + (len(text_positions(self.protocol, video.frame_count)) if self._reads(prompt) else 0)

    def score(
        self,
        video: VideoFile | FrameBatch,
        reference: Reference,
        prompt: str = "",
        on_frame: Callable[[], None] = lambda: None,
    ) -> VideoScores:
        """VideoScores of a video.

        Args:
            video: its frames.
            reference: the person, of `reference`.
            prompt: the text; CLIPScore is left out without it or without CLIP.
            on_frame: called after every frame of each pass; it may raise.

        Raises:
            ConsisIDError: naming the video that cannot be read.
        """
        face = self.faces.score(video, reference, on_frame)
        text = self.models.clip.score(video, prompt, self.protocol, on_frame) if self._reads(prompt) else None
        return VideoScores(face, text)

    def _reads(self, prompt):
        return bool(prompt.strip()) and self.models.clip is not None


def report_lines(scores: VideoScores, models: EvaluationModels) -> list[str]:
    """What a user reads: figures with the rule they were measured by, and what limits them."""
    lines = [f"Protocol: {scores.protocol}"]
    if scores.face is not None:
        lines += _face_lines(scores.face, models)
    if scores.text is not None:
        lines.append(f"CLIPScore {in_words(scores.text.score, 2)}: {_TEXT_RULES[scores.protocol]}, {models.clip.name}")
        if scores.text.is_prompt_cut:
            lines.append("The prompt is longer than CLIP reads: its end did not count")
    if stand_ins := stand_ins_of(scores, models):
        lines.append(f"Demo weights, no real measure: {', '.join(stand_ins)}")
    return lines


def stand_ins_of(scores: VideoScores, models: EvaluationModels) -> list[str]:
    """Names of the demo weights that these scores were measured by."""
    clip = models.clip and models.clip.name
    return [name for name in models.stand_ins if (scores.text if name == clip else scores.face) is not None]


def _face_lines(face, models):
    lines = [f"FaceSim-Arc {in_words(face.score(face.arc))}: {_FACE_RULES[face.protocol]}, recogniser of {models.pack}"]
    if face.curricular is not None:
        lines.append(f"FaceSim-Cur {in_words(face.score(face.curricular))}: by the same faces")
    missing, looked_at = face.frames_without_face, len(face.arc)
    if missing == 0:
        lines.append(f"Every frame shows a face ({looked_at})")
    elif missing == looked_at:
        lines.append(f"None of the {looked_at} frames shows a face")
    else:
        lines.append(
            f"{missing} of {looked_at} frames show no face; over the others FaceSim-Arc is {np.nanmean(face.arc):.3f}"
        )
    if face.best:
        best, worst = (f"{frame.position} ({frame.cosine:.3f})" for frame in (face.best, face.worst))
        lines.append(f"Best frame {best}, worst {worst}")
    lines += _fid_lines(face)
    if face.protocol == "paper" and models.pack != PAPER_PACK:
        lines.append(f"The paper measures by {PAPER_PACK}: figures by {models.pack} do not compare with its tables")
    return lines


def in_words(score: Score, digits: int = 3) -> str:
    """A Score as "0.712 ± 0.008 (n = 49)"."""
    error = "" if score.standard_error is None else f" ± {score.standard_error:.{digits}f}"
    return f"{score.mean:.{digits}f}{error} (n = {score.count})"


def _fid_lines(face):
    if face.features is None:
        return []
    if face.fid is None:
        return ["FID needs two photos and two frames with a face at least"]
    if face.protocol == "paper":
        return [f"FID of the paper {face.fid:.2f}: squared distance of single pictures' features, no FID of sets"]
    return [
        f"FID {face.fid:.2f} over {len(face.features)} faces. Below {RELIABLE_SAMPLES} it depends on their number: "
        "compare sets of one size only"
    ]
