"""Renders people, their photos and clips into the `Shelf`, by several processes, while training already reads it.

Each row is decided by the seed and its number alone, so a run that was stopped goes on with the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ConsisIDError
from ...face.align import BORDER_RGB, FACE_SIZE, estimate_alignment, warp_face
from ...face.face_pack import quiet
from ...face.parsing import WHITENED_LABELS
from ...people.clip import Clip, make_clip, make_photo
from ...people.dataset import clip_generator, person_generator
from ...people.head import Head
from ...people.person import Person, sample_person
from ...people.processes import follow_parent
from ...people.renderer import Renderer
from .nets import GREY_SIZE
from .shelf import CROP, FACTS, REFERENCES, Shelf
from .words import Vocabulary, mirrored

RECOGNISER_SIZE = 112
"""Side of the crop that a recogniser takes, in pixels."""

_PHOTO_PIXELS = 176
_DETECTOR_ERROR = 0.02
"""Standard deviation of a detector's landmarks, of the distance of the eyes."""
_AHEAD = 4
"""So great a part of the people is drawn before the first clip: identity is taught first."""
_ROWS_OF_SEED = 1000


@dataclass(frozen=True)
class Order:
    """What the renderers need besides the shelf."""

    recogniser: Path
    """The face pack's .onnx."""
    tokenizer: Path
    tokens: tuple[int, ...]
    """Of the vocabulary."""
    seed: int = 0
    head_data: Path | None = None
    """As in `Head.load`."""


@contextmanager
def rendering(folder: Path, order: Order) -> Iterator[Callable[[], None]]:
    """Have processes fill the shelf in the background, one for each row. They end with the block.

    Yields:
        A function that waits until the shelf is full.

    Raises:
        ConsisIDError: when the block ends, if a process failed.
    """
    Head.load(order.head_data)  # Built once, by this process.
    context = multiprocessing.get_context("spawn")
    rows = [row for row in range(Shelf(folder).extent.rows) if not Shelf(folder).is_full(row)]
    processes = [context.Process(target=_work, args=(folder, row, order), daemon=True) for row in rows]
    for process in processes:
        process.start()
    try:
        yield lambda: _wait(folder, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    # A negative code is our own signal.
    if failed := [row for row, process in zip(rows, processes, strict=True) if (process.exitcode or 0) > 0]:
        raise ConsisIDError(f"The process that renders row {failed[0]} failed; its error stands above.")


def _wait(folder, processes):
    from tqdm import tqdm

    shelf = Shelf(folder)
    interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
    total = shelf.extent.rows * (shelf.extent.people + shelf.extent.clips)
    with tqdm(total=total, desc="people", unit="piece", dynamic_ncols=True, mininterval=interval) as bar:
        while any(process.is_alive() for process in processes):
            bar.update(int(shelf.counts.sum()) - bar.n)
            time.sleep(1)
        bar.update(int(shelf.counts.sum()) - bar.n)


def _work(folder, row, order):
    follow_parent()
    if hasattr(os, "nice"):
        os.nice(10)
    fill_row(folder, row, order)


def fill_row(folder: Path, row: int, order: Order) -> None:
    """Draw what a row lacks.

    Raises:
        ConsisIDError: a file of the order cannot be used.
    """
    maker = _Maker(Shelf(folder), row, order)
    extent = maker.shelf.extent
    for number in range(int(maker.shelf.counts[row, 1]), extent.clips):
        maker.add_people(min(extent.people, number + 1 + max(1, extent.people // _AHEAD)))
        maker.add_clip(number)
    maker.add_people(extent.people)


class _Maker:
    """Fills one row."""

    def __init__(self, shelf, row, order):
        import cv2

        cv2.setNumThreads(1)
        self.shelf, self.row = shelf, row
        self.seed = order.seed * _ROWS_OF_SEED + row
        self.head = Head.load(order.head_data)
        self.neutral = self.head.rest(0.5, 0.3, (1 / 3,) * 3, {}).vertices
        self.photos = Renderer(self.head, _PHOTO_PIXELS, _PHOTO_PIXELS)
        self.clips = Renderer(self.head, shelf.extent.pixels, shelf.extent.pixels)
        self.vocabulary = Vocabulary(order.tokenizer, order.tokens)
        self.recogniser = _Recogniser(order.recogniser)
        self.people: dict[int, Person] = {}

    def add_people(self, until):
        """People up to this number, with their references."""
        shelf, row = self.shelf, self.row
        for i in range(int(shelf.counts[row, 0]), until):
            rng = person_generator(self.seed, i)
            person = self.people[i] = sample_person(self.head, rng)
            for k in range(REFERENCES):
                photo = make_photo(self.head, self.photos, person, rng)
                shelf.reference[row, i, k], shelf.grey[row, i, k], shelf.embedding[row, i, k] = self._reference(
                    photo.frames, photo.labels, photo.landmarks, rng
                )
            shelf.crop[row, i], shelf.crop_labels[row, i] = parser_example(photo, rng)
            shelf.facts[row, i] = facts(person, self.neutral)
            shelf.counts[row, 0] = i + 1  # Last: readers go by it.

    def add_clip(self, number):
        """One clip, of a new person while there are some."""
        shelf, row = self.shelf, self.row
        rng = clip_generator(self.seed, shelf.extent.people, number)
        drawn = int(rng.integers(shelf.extent.people))
        owner = number if number < shelf.extent.people else drawn
        if owner not in self.people:
            self.people[owner] = sample_person(self.head, person_generator(self.seed, owner))
        clip = make_clip(self.head, self.clips, self.people[owner], rng, shelf.extent.frames)
        shelf.clip[row, number], shelf.labels[row, number] = clip.frames, clip.labels
        shelf.landmarks[row, number], shelf.owner[row, number] = clip.landmarks, owner
        for side, text in enumerate((clip.caption, mirrored(clip.caption))):
            shelf.text[row, number, side] = self.vocabulary.rows(text, shelf.extent.text_length)
        k = int(rng.integers(shelf.extent.frames))
        shelf.inside[row, number], shelf.inside_grey[row, number], shelf.inside_embedding[row, number] = (
            self._reference(clip.frames[k], clip.labels[k], clip.landmarks[k], rng)
        )
        shelf.counts[row, 1] = number + 1

    def _reference(self, picture, labels, landmarks, rng):
        """Whitened crop [S, S, 3] and grey [112, 112], both uint8, and embedding [512] of a face."""
        import cv2

        landmarks = _as_detected(landmarks, rng)
        matrix = estimate_alignment(landmarks)
        away = np.isin(labels, WHITENED_LABELS).astype(np.float32)
        white = cv2.warpAffine(away, matrix, (FACE_SIZE, FACE_SIZE), flags=cv2.INTER_LINEAR, borderValue=1) > 0.5
        crop = warp_face(picture, matrix)
        crop[white] = 255
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        side = self.shelf.extent.pixels
        return (
            cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA),
            cv2.resize(grey, (GREY_SIZE, GREY_SIZE), interpolation=cv2.INTER_AREA),
            self.recogniser.embedding(picture, landmarks),
        )


def _as_detected(landmarks, rng):
    """Landmarks [5, 2] as a detector would find them."""
    eyes = np.linalg.norm(landmarks[0] - landmarks[1])
    return (landmarks + rng.normal(0, _DETECTOR_ERROR * eyes, landmarks.shape)).astype(np.float32)


class _Recogniser:
    """The face pack's, on one thread."""

    def __init__(self, file):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        # onnxruntime's errors have no common class.
        except Exception as error:
            raise ConsisIDError(f"{file} is no face recogniser that runs here ({error}).") from None
        self._input = self._session.get_inputs()[0].name

    def embedding(self, picture, landmarks):
        """[512] float32 of the face with these landmarks."""
        from insightface.utils import face_align

        with quiet():
            crop = face_align.norm_crop(picture, landmark=landmarks, image_size=RECOGNISER_SIZE)
        pixels = crop.astype(np.float32).transpose(2, 0, 1)[None]
        return self._session.run(None, {self._input: pixels})[0][0]


def parser_example(photo: Clip, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An aligned crop [256, 256, 3] uint8 and its labels [256, 256] uint8."""
    import cv2

    matrix = estimate_alignment(_as_detected(photo.landmarks, rng)) * (CROP / FACE_SIZE)
    picture = cv2.warpAffine(photo.frames, matrix, (CROP, CROP), flags=cv2.INTER_LINEAR, borderValue=BORDER_RGB)
    return picture, cv2.warpAffine(photo.labels, matrix, (CROP, CROP), flags=cv2.INTER_NEAREST, borderValue=0)


def facts(person: Person, neutral: np.ndarray) -> np.ndarray:
    """What the renderer knows of a person, as float32 [64] of about one size: colours, hair, age, shape of the face.

    Args:
        person: who.
        neutral: [N, 3] vertices of an average head.
    """
    look = person.look
    said = [
        *look.skin, *look.hair, *look.iris, *look.lips, look.hair_cover, look.hair_curls, look.beard, look.wrinkles,
        look.freckles, look.blush, look.eyeliner, 100 * look.brow_thickness, 100 * look.brow_height,
        100 * look.brow_arch, look.brow_strength, person.years / 50, person.woman, person.spectacles is not None,
        30 * float(np.max(person.hair, initial=0)),
    ]  # fmt: skip
    # A few points on the right half of the face, which is like the left: before the ears, from chin to forehead.
    x, y, z = neutral.T
    face = np.flatnonzero((y < -0.08) & (z > 0.62) & (z < 0.78) & (x >= 0))
    points = np.random.default_rng(5).choice(face, (FACTS - len(said)) // 3, replace=False)
    shape = person.rest.vertices[points] - neutral[points]
    said += [*(150 * (shape - shape.mean(0))).ravel()]
    return np.pad(np.array(said, np.float32), (0, FACTS - len(said)))
