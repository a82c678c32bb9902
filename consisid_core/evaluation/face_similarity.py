"""FaceSim-Arc, FaceSim-Cur and the faces' FID of a video: as the paper's code computes them, and correctly.

`protocol="paper"` is `eval/get_facesim_fid.py` of the official repository, whose figures are in the paper's tables:
16 frames, the largest face of each, negative cosines raised to 0, frames without a face left out. A video that shows
the person once and an empty room otherwise scores as high as one that shows the person throughout.

`protocol="strict"` looks at every frame, takes the face that matches best, and counts a frame without a face as 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConsisIDError
from ..face.align import recogniser_crop
from ..face.detector import FaceDetector
from ..face.face_pack import DETECTOR_SIZE
from ..face.photo import cut_off_hint
from .nets import curricularface, fid
from .nets.curricularface import CurricularFace
from .nets.inception import FEATURES, PAPER_KIND, TRUE_KIND, Inception
from .protocol import PAPER_FRAMES, Score, check_protocol, mean_score
from .video import FrameBatch, VideoFile

PAPER_DETECTOR_SIZE = (320, 320)
PAPER_BORDER = 0.25  # Of the height and of the width, on each side.
CROP_SIZE = 224
"""Width and height, in pixels, of the aligned face that CurricularFace and Inception see."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The person whose face is looked for, from one photo or several."""

    arc: np.ndarray
    """[512] unit length: the recogniser's embedding, or the mean direction of several."""
    curricular: np.ndarray | None
    """The same by CurricularFace, if it is there."""
    features: np.ndarray | None
    """[photos, 2048] Inception's features of the aligned faces, if it is there."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video that shows a face."""

    position: int
    """In the video, from 0."""
    cosine: float
    """Of the recogniser's embeddings, -1..1."""
    picture: np.ndarray
    """uint8 [H, W, 3] RGB."""


@dataclass(frozen=True, eq=False)
class FaceSimilarity:
    """How much the faces of a video are like the reference, frame by frame."""

    protocol: str
    positions: np.ndarray
    """[F] int: which frames were looked at, from 0."""
    arc: np.ndarray
    """[F] float64 cosine of the recogniser's embeddings, -1..1; NaN where there is no face."""
    curricular: np.ndarray | None
    """[F] the same by CurricularFace, if it is there."""
    features: np.ndarray | None
    """[faces, 2048] Inception's features of the aligned faces, if it is there."""
    fid: float | None
    """paper: mean squared distance of single features, which the paper calls FID. strict: the true Fréchet distance of
    the video's faces to those of the photos; None for fewer than two of either, or without Inception."""
    best: Frame | None
    """That of the highest cosine; None if no frame shows a face."""
    worst: Frame | None
    """That of the lowest cosine."""

    @property
    def frames_without_face(self) -> int:
        """How many of the frames that were looked at show no face."""
        return int(np.isnan(self.arc).sum())

    def score(self, cosines: np.ndarray) -> Score:
        """Score by the rule of the protocol.

        Args:
            cosines: [F] `arc` or `curricular`.
        """
        found = cosines[~np.isnan(cosines)]
        if self.protocol == "paper":
            return Score(float(np.maximum(found, 0).mean()) if len(found) else 0.0, None, len(found))
        return mean_score(np.nan_to_num(cosines, nan=0.0))


def frame_positions(protocol: str, frame_count: int) -> Sequence[int]:
    """Which frames a protocol looks at: all, or the paper's 16 from first to last, some twice in a shorter video."""
    if protocol == "strict":
        return range(frame_count)
    return np.linspace(0, frame_count - 1, PAPER_FRAMES, dtype=int).tolist()


class FaceScorer:
    """The nets that look at faces, used for one reference and its videos after the other."""

    def __init__(
        self,
        detector: FaceDetector,
        protocol: str,
        curricular_face: CurricularFace | None = None,
        inception: Inception | None = None,
    ) -> None:
        """
        Args:
            detector: with the recogniser; buffalo_l in the paper.
            protocol: one of `PROTOCOLS`.
            curricular_face: None to do without FaceSim-Cur.
            inception: of the protocol's kind, or None to do without FID.

        Raises:
            ConsisIDError: unknown protocol, or the Inception of the other one.
        """
        check_protocol(protocol)
        kind = PAPER_KIND if protocol == "paper" else TRUE_KIND
        if inception is not None and inception.kind != kind:
            raise ConsisIDError(
                f"The {protocol} protocol measures FID by {kind}'s Inception, and the one given is {inception.kind}'s. "
                "Their features differ: choose the other file, the other protocol, or none."
            )
        self.detector, self.protocol = detector, protocol
        self.curricular_face, self.inception = curricular_face, inception

    def reference(self, photos: Sequence[np.ndarray]) -> Reference:
        """The person in photos: the largest face of each; in the paper's protocol of one.

        Args:
            photos: each [H, W, 3] uint8 RGB.

        Raises:
            ConsisIDError: naming a photo without a face, or if the paper's protocol gets several.
        """
        if self.protocol == "paper" and len(photos) > 1:
            raise ConsisIDError(
                f"The paper's protocol compares with one photo, and the reference holds {len(photos)}. Choose one, or "
                "the strict protocol, which takes the mean of all."
            )
        arcs, crops = [], []
        for number, photo in enumerate(photos, start=1):
            faces = self._find(photo)
            if not faces:
                raise ConsisIDError(
                    f"No face found in reference photo {number} of {len(photos)} ({photo.shape[1]}x{photo.shape[0]}). "
                    "Use a sharp photo of a person who looks towards the camera, with some space around the head."
                    + cut_off_hint(photo)
                )
            face = max(faces, key=lambda face: face.area)
            arcs.append(face.embedding)
            crops.append(recogniser_crop(photo, face, CROP_SIZE))
        return Reference(
            _mean_direction(arcs),
            _mean_direction([self._curricular(crop) for crop in crops]) if self.curricular_face else None,
            np.stack([self.inception.features(crop) for crop in crops]) if self.inception else None,
        )

    def score(
        self, video: VideoFile | FrameBatch, reference: Reference, on_frame: Callable[[], None] = lambda: None
    ) -> FaceSimilarity:
        """How much the faces of a video are like the reference.

        Args:
            video: its frames.
            reference: the person, of `reference`.
            on_frame: called after each frame; it may raise.

        Raises:
            ConsisIDError: as the video's `frames` does.
        """
        positions, arc, curricular, features = [], [], [], []
        best = worst = None
        chosen = None if self.protocol == "strict" else frame_positions("paper", video.frame_count)
        for position, frame in video.frames(chosen):
            positions.append(position)
            faces = self._find(frame)
            cosines = [_cosine(face.embedding, reference.arc) for face in faces]
            if not faces:
                arc.append(np.nan)
                curricular.append(np.nan)
            else:
                if self.protocol == "paper":
                    taken = max(range(len(faces)), key=lambda i: faces[i].area)
                else:
                    taken = int(np.argmax(cosines))
                arc.append(cosines[taken])
                crop = recogniser_crop(frame, faces[taken], CROP_SIZE)
                if self.curricular_face:
                    curricular.append(_cosine(self._curricular(crop), reference.curricular))
                if self.inception:
                    features.append(self.inception.features(crop))
                if best is None or arc[-1] > best.cosine:
                    best = Frame(position, arc[-1], frame)
                if worst is None or arc[-1] < worst.cosine:
                    worst = Frame(position, arc[-1], frame)
            on_frame()
        features = np.stack(features) if features else np.zeros((0, FEATURES))
        return FaceSimilarity(
            protocol=self.protocol,
            positions=np.array(positions),
            arc=np.array(arc),
            curricular=np.array(curricular) if self.curricular_face else None,
            features=features if self.inception else None,
            fid=self._fid(reference, features) if self.inception else None,
            best=best,
            worst=worst,
        )

    def _find(self, frame):
        size = PAPER_DETECTOR_SIZE if self.protocol == "paper" else DETECTOR_SIZE
        height, width = frame.shape[:2]
        # A face that fills the frame is found with a border around it.
        border = int(height * PAPER_BORDER), int(width * PAPER_BORDER)
        return self.detector.look(frame, size) or self.detector.look(frame, size, border)

    def _curricular(self, crop):
        device = next(self.curricular_face.parameters()).device
        return self.curricular_face(curricularface.preprocess(crop).to(device))[0].float().cpu().numpy()

    def _fid(self, reference, features):
        if self.protocol == "paper":
            # As the paper's code reports it where no frame shows a face.
            return float(np.mean([fid.paper_distance(reference.features[0], row) for row in features] or [0.0]))
        if min(len(reference.features), len(features)) < 2:
            return None
        return fid.frechet_distance(reference.features, features)


def _cosine(vector, other):
    vector, other = np.asarray(vector, np.float64), np.asarray(other, np.float64)
    return float(vector @ other / (np.linalg.norm(vector) * np.linalg.norm(other)))


def _mean_direction(vectors):
    mean = np.mean([vector / np.linalg.norm(vector) for vector in np.asarray(vectors, np.float64)], axis=0)
    return mean / np.linalg.norm(mean)
