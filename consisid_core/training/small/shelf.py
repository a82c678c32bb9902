"""What the renderers made, as memory-mapped arrays that they fill while training already reads.

    WORK/people/*.npy       one array each; the process with number w fills row w
    WORK/people/shelf.json  the sizes

A row is filled from its start, and `counts` says how far it is whole. References stand in for photos of a person:
whitened crops as the face path makes them, with the recogniser's embedding.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...errors import ConsisIDError
from ...evaluation.results import whole_file
from .nets import EMBEDDING, GREY_SIZE, Sizes

REFERENCES = 3
"""Photos of each person."""
FACTS = 64
"""Numbers that the renderer knows of a person."""
CROP = 256
"""Side of the crops that the parser learns from, in pixels."""
HELD_OUT = 3
"""The first people of every row are never trained on."""

_SIZES = "shelf.json"


@dataclass(frozen=True)
class Extent:
    """How much the arrays hold, at most."""

    rows: int
    """Processes that fill them."""
    people: int
    """Of each row."""
    clips: int
    """Of each row."""
    pixels: int
    frames: int
    text_length: int

    @classmethod
    def of(cls, sizes: Sizes, rows: int, people: int, clips: int) -> Extent:
        """For nets of these sizes."""
        return cls(rows, people, clips, sizes.pixels, sizes.frames, sizes.text_length)


class Shelf:
    """The arrays, open to read and to write.

    Of people: `reference` [W, P, 3, S, S, 3] uint8 whitened crops, `grey` [W, P, 3, 112, 112] uint8 and `embedding`
    [W, P, 3, 512] float32 of the same, `facts` [W, P, 64] float32, `crop` [W, P, 256, 256, 3] and `crop_labels`
    [W, P, 256, 256] uint8 for the parser. Of clips: `clip` [W, C, T, S, S, 3] and `labels` [W, C, T, S, S] uint8,
    `landmarks` [W, C, T, 5, 2] float32 in pixels, `owner` [W, C] int32 place in the row, `text` [W, C, 2, L] int32 rows
    of the caption and of the mirrored one, and `inside`, `inside_grey`, `inside_embedding`: a reference from the clip.
    `counts` [W, 2] int64: people and clips that are whole.
    """

    def __init__(self, folder: Path, extent: Extent | None = None) -> None:
        """
        Args:
            folder: of the arrays.
            extent: makes them where they are missing.

        Raises:
            ConsisIDError: there are none, or of another extent.
        """
        stored = folder / _SIZES
        if not stored.is_file():
            if extent is None:
                raise ConsisIDError(f"{folder} holds no people yet. Run the stage people: --stages people")
            _make(folder, extent)
        self.extent = Extent(**json.loads(stored.read_text(encoding="utf-8")))
        if extent not in (None, self.extent):
            raise ConsisIDError(
                f"{folder} was made with {asdict(self.extent)}, not with {asdict(extent)}. Take the same numbers, or "
                "name a new folder."
            )
        for name in _arrays(self.extent):
            setattr(self, name, np.load(folder / f"{name}.npy", mmap_mode="r+"))

    def is_full(self, row: int) -> bool:
        """Whether a row holds all people and clips."""
        return tuple(self.counts[row]) == (self.extent.people, self.extent.clips)


def _arrays(extent):
    """Name -> shape and dtype."""
    e = extent
    people, clips, side = (e.rows, e.people), (e.rows, e.clips), (e.pixels, e.pixels)
    grey = (GREY_SIZE, GREY_SIZE)
    return {
        "counts": ((e.rows, 2), "i8"),
        "reference": ((*people, REFERENCES, *side, 3), "u1"),
        "grey": ((*people, REFERENCES, *grey), "u1"),
        "embedding": ((*people, REFERENCES, EMBEDDING), "f4"),
        "facts": ((*people, FACTS), "f4"),
        "crop": ((*people, CROP, CROP, 3), "u1"),
        "crop_labels": ((*people, CROP, CROP), "u1"),
        "clip": ((*clips, e.frames, *side, 3), "u1"),
        "labels": ((*clips, e.frames, *side), "u1"),
        "landmarks": ((*clips, e.frames, 5, 2), "f4"),
        "owner": (clips, "i4"),
        "text": ((*clips, 2, e.text_length), "i4"),
        "inside": ((*clips, *side, 3), "u1"),
        "inside_grey": ((*clips, *grey), "u1"),
        "inside_embedding": ((*clips, EMBEDDING), "f4"),
    }


def _make(folder, extent):
    """The arrays, sparse where the file system can: an array takes disk as it fills."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in _arrays(extent).items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    with whole_file(folder / _SIZES) as unfinished:
        unfinished.write_text(json.dumps(asdict(extent)), encoding="utf-8")
