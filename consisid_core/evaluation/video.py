"""Frames to measure: of a video file, decoded one at a time, or of a batch of pictures."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from ..errors import ConsisIDError, is_out_of_memory, lack_of_memory
from ..face.photo import to_eight_bits, to_pixels
from .decoding import count_frames, decode

log = logging.getLogger("consisid")


class VideoFile:
    """A video file. Memory holds one frame at a time, however long it is.

    Its pixels are those of OpenCV, by which the paper's code reads (`eval/get_facesim_fid.py`); see `decoding`.
    """

    def __init__(self, path: Path | str) -> None:
        """
        Raises:
            ConsisIDError: naming the file, which is missing or no video with at least one frame.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ConsisIDError(f"The video {self.path} does not exist.")
        self.frame_count = count_frames(self.path)
        """Number of frames: all that can be decoded or, of a file that breaks off, as many as its index promises."""
        if self.frame_count == 0:
            raise ConsisIDError(f"The video {self.path} holds no frames. Save or download it again.")

    def frames(self, positions: Iterable[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame in order, or those at the positions that can be read.

        Args:
            positions: from 0, in any order and several times as well; quick when they rise.

        Yields:
            (position, uint8 [H, W, 3] RGB).

        Raises:
            ConsisIDError: not one frame can be read.
        """
        read = 0
        for position, picture in self._all() if positions is None else self._at(positions):
            read += 1
            yield position, picture
        if read == 0:
            raise ConsisIDError(f"No frame of the video {self.path} can be read. Save or download it again.")
        if positions is None and read < self.frame_count:
            log.warning("%s should have %d frames; %d can be read.", self.path, self.frame_count, read)

    def _all(self):
        for position, picture in enumerate(decode(self.path)):
            yield position, picture()

    def _at(self, positions):
        reached, pixels, rest = -1, None, decode(self.path)
        for position in positions:
            if position < reached:
                reached, rest = -1, decode(self.path)
            if position > reached:
                # The frames before it are decoded too: they are what it is made of.
                picture = next(itertools.islice(rest, position - reached - 1, None), None)
                reached, pixels = position, picture and picture()
            if pixels is not None:
                yield int(position), pixels


class FrameBatch:
    """Frames that are in memory: ComfyUI's IMAGE, [N, H, W, C] float 0..1."""

    def __init__(self, images: torch.Tensor | list[torch.Tensor], name: str = "video") -> None:
        """
        Args:
            images: the frames, in a list where they are of several sizes.
            name: what to call them in errors.

        Raises:
            ConsisIDError: there are none.
        """
        if len(images) == 0:
            raise ConsisIDError(f"{name} is an empty batch: no picture arrived from the node before.")
        self.images, self.name = images, name
        self.frame_count = len(images)

    def frames(self, positions: Iterable[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """As `VideoFile.frames`.

        Raises:
            ConsisIDError: naming a frame that is no picture (`to_pixels`).
        """
        for position in range(self.frame_count) if positions is None else positions:
            try:
                frame = to_pixels(self.images[position])
            except ConsisIDError as error:
                raise ConsisIDError(f"Picture {position} of {self.name}: {error}") from None
            yield int(position), frame


def read_picture(path: Path | str, upright: bool) -> np.ndarray:
    """A reference photo from a file.

    Args:
        path: of the file.
        upright: turn it as its EXIF data say, as every viewer does, and lay transparency on white. The paper's code
            does not turn it, and drops transparency.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        ConsisIDError: naming the file, which is missing or no picture.
    """
    from PIL import Image, ImageOps

    try:
        # Where Pillow 13 maps a file into memory, which it does by name only, it tears a TIFF on its side apart.
        with open(path, "rb") as stream, Image.open(stream) as opened:
            picture = to_eight_bits(opened)
            if not upright:
                return np.array(picture.convert("RGB"))
            picture = ImageOps.exif_transpose(picture)
            channels = "RGBA" if picture.has_transparency_data else "RGB"
            return to_pixels(np.asarray(picture.convert(channels), np.float32) / 255)
    except FileNotFoundError:
        raise ConsisIDError(f"The picture {path} does not exist.") from None
    except ConsisIDError as error:
        raise ConsisIDError(f"The picture {path}: {error}") from None
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError and more.
    except Exception as error:
        if is_out_of_memory(error):
            raise lack_of_memory(f"The picture {path} cannot be read") from None
        raise ConsisIDError(
            f"The picture {path} cannot be read ({type(error).__name__}). Save it as .png or .jpg."
        ) from None
