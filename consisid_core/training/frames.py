"""From the frames of a video to those of a clip: which are taken, how they are cut, and the mask of the face."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..evaluation.video import VideoFile
from .cache import Geometry
from .manifest import Refused

TOLERANCE = 6
"""Frames in which an annotation may miss the person without the video counting as cut (`--miss_tolerance`)."""

SKIPPED = 7
"""Frames left out at either end of a stretch, if there are so many: cuts leave traces (`--skip_frames_start`)."""

_MARGIN = 0.3  # of a face's size, on each side, for hair and chin
_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class Window:
    """How a frame becomes one of the clip: it is resized as a whole, and this is cut out."""

    resized: tuple[int, int]
    """(height, width)"""
    top: int
    left: int
    height: int
    width: int

    @property
    def is_middle(self) -> bool:
        """Whether it is where torchvision's center_crop would cut."""
        return (self.top, self.left) == tuple(
            round((full - part) / 2) for full, part in zip(self.resized, (self.height, self.width), strict=True)
        )

    def cut(self, frames: torch.Tensor) -> torch.Tensor:
        """[..., height, width] out of resized frames [..., h, w]."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width]


def segments(positions: Sequence[int], tolerance: int) -> list[range]:
    """Stretches of a video between positions that lie at most so far apart, the longest first.

    Args:
        positions: sorted.
        tolerance: in frames.
    """
    ends = [i for i in range(1, len(positions)) if positions[i] - positions[i - 1] > tolerance]
    parts = [positions[start:end] for start, end in zip([0, *ends], [*ends, len(positions)], strict=True)]
    return sorted((range(part[0], part[-1] + 1) for part in parts if part), key=lambda part: (-len(part), part.start))


def choose_clips(stretches: Sequence[range], geometry: Geometry, count: int) -> list[range]:
    """Positions of the frames of up to `count` clips that do not overlap, evenly spread over each stretch.

    Where no stretch is long enough for the geometry's stride, frames are taken closer together: the official code
    repeats frames instead (models/dataloader.py:120-125), which teaches the model to stand still.

    Args:
        stretches: of `segments`.
        geometry: of the clips.
        count: at least 1.

    Raises:
        Refused: not one fits.
    """
    longest = max((len(stretch) for stretch in stretches), default=0)
    if longest < geometry.frames:
        raise Refused(
            "too short",
            f"the person is seen in {longest} frames on end, and a clip has {geometry.frames}. Use a longer video, or "
            "prepare with a smaller --frames.",
        )
    stride = min(geometry.stride, (longest - 1) // max(1, geometry.frames - 1)) or 1
    length = (geometry.frames - 1) * stride + 1
    clips = []
    for stretch in stretches:
        skipped = min(SKIPPED, max(0, len(stretch) - length) // 2)
        room = len(stretch) - 2 * skipped
        fitting = min(count - len(clips), room // length)
        gap = (room - fitting * length) / (fitting + 1)
        for number in range(fitting):
            start = stretch.start + skipped + round(gap * (number + 1)) + number * length
            clips.append(range(start, start + length, stride))
    return clips


def resized_size(size: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """(height, width) that covers the clip's size and keeps the frame's proportions (models/dataloader.py:722-738).

    Args:
        size: (height, width) of the video's frames.
        geometry: of the clip.
    """
    height, width = size
    ratio = width / height
    if ratio > geometry.width / geometry.height:
        return geometry.height, max(geometry.width, int(geometry.height * ratio))
    return max(geometry.height, int(geometry.width / ratio)), geometry.width


def resize(frame: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """As torchvision's Resize, which the official code uses: bilinear with antialiasing.

    Args:
        frame: [C, H, W] uint8.
        size: (height, width).

    Returns:
        [C, height, width] uint8.
    """
    from torchvision.transforms.functional import resize

    return resize(frame, list(size), antialias=True)


def place_window(resized: tuple[int, int], boxes: np.ndarray, geometry: Geometry) -> Window:
    """The middle of the resized frames, moved only as far as the face needs.

    The official code always takes the middle, which cuts the head off a standing person in a portrait video: the mask
    is empty then, and the mask loss divides by zero.

    Args:
        resized: (height, width) of the frames.
        boxes: [N, 4] x1, y1, x2, y2 of the face in resized pixels, at least one.
        geometry: of the clip.
    """

    def offset(full, part, low, high):
        middle = round((full - part) / 2)
        return int(min(max(min(middle, np.floor(low)), np.ceil(high) - part, 0), full - part))

    margin = _MARGIN * (boxes[:, 2:] - boxes[:, :2])
    (x1, y1), (x2, y2) = (boxes[:, :2] - margin).min(axis=0), (boxes[:, 2:] + margin).max(axis=0)
    height, width = resized
    top, left = offset(height, geometry.height, y1, y2), offset(width, geometry.width, x1, x2)
    return Window(resized, top, left, geometry.height, geometry.width)


def latent_mask(mask: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A mask of every frame at the size of the latents (official util/utils.py:444, with the first frame apart).

    Args:
        mask: [F, H, W] float, 0..1, at the clip's size.
        geometry: of the clip.

    Returns:
        [T, h, w] float, 0..1.
    """
    frames, *size = geometry.latent_size

    def scaled(part, count):
        return torch.nn.functional.interpolate(part[None, None], (count, *size), mode="trilinear")[0, 0]

    first = scaled(mask[:1], 1)
    return torch.cat((first, scaled(mask[1:], frames - 1))) if frames > 1 else first


def read_masks(path: Path, positions: range, size: tuple[int, int]) -> list[np.ndarray]:
    """The masks of some frames of a video.

    Args:
        path: a video of masks, white where the face is; or a folder of PNG files whose names end in the number of
            their frame, from 0 or 1, not 0 where the face is (models/dataloader.py:311).
        positions: of the frames.
        size: (height, width) of the frames.

    Returns:
        For each position bool [H, W].

    Raises:
        Refused: masks are missing, unreadable or of another size than the video.
    """
    masks = _read_pictures(path, positions) if path.is_dir() else _read_video(path, positions)
    missing = [position for position in positions if position not in masks]
    if missing:
        raise Refused(
            "mask", f"its mask {path} has none for {len(missing)} frames of the clip, first for {missing[0]}."
        )
    for position, mask in masks.items():
        if mask.shape != size:
            raise Refused(
                "mask",
                f"its mask {path} is {mask.shape[1]}x{mask.shape[0]} in frame {position}, and the video is "
                f"{size[1]}x{size[0]}. Make them the same size.",
            )
    return [masks[position] for position in positions]


def _read_video(path, positions):
    # Compression leaves no exact black.
    return {position: frame.max(axis=2) > 127 for position, frame in VideoFile(path).frames(positions)}


def _read_pictures(folder, positions):
    from PIL import Image

    numbered = {int(found[1]): file for file in folder.glob("*.png") if (found := _NUMBER.search(file.stem))}
    first = 1 if numbered and min(numbered) == 1 else 0
    masks = {}
    for position in positions:
        if (file := numbered.get(position + first)) is None:
            continue
        try:
            with Image.open(file) as picture:
                mask = np.array(picture)
        # Damaged files make Pillow raise OSError, SyntaxError, ValueError and more.
        except Exception as error:
            raise Refused("mask", f"its mask {file} cannot be read ({type(error).__name__}).") from None
        masks[position] = (mask if mask.ndim == 2 else mask[..., :3].max(axis=2)) > 0
    return masks


def frame_rate(path: Path) -> float | None:
    """Frames in a second, as a video file says it; None where it says nothing."""
    import av

    with av.open(str(path)) as file:
        rate = file.streams.video[0].average_rate
    return float(rate) if rate else None
