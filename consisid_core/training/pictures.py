"""Validation videos to look at: as files, and side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import optional_library

FPS = 8
"""Frames a second of ConsisID's videos."""

_STRIP_FRAMES = 6
_GAP = 4
_CAPTION = 22


def write_video(frames: np.ndarray, path: Path) -> None:
    """Write an .mp4 (H.264). frames: uint8 [F, H, W, 3], H and W even.

    Raises:
        ConsisIDError: PyAV is not installed.
    """
    with optional_library("Writing validation videos"):
        import av
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", FPS, options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        file.mux(stream.encode())


def strip(rows: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> np.ndarray:
    """A picture with one row a video: the photo, then frames at equal distances, below a caption.

    Args:
        rows: (photo uint8 [h, w, 3], frames uint8 [F, H, W, 3], caption); all frames of one size.

    Returns:
        uint8 [H', W', 3].
    """
    from PIL import Image, ImageDraw

    height, width = rows[0][1].shape[1:3]
    columns = [_fitted(photo, height) for photo, _, _ in rows]
    left = max(photo.width for photo in columns)
    picture = Image.new("RGB", (left + _STRIP_FRAMES * (width + _GAP), len(rows) * (height + _CAPTION + _GAP)), "white")
    draw = ImageDraw.Draw(picture)
    for i, (photo, (_, frames, caption)) in enumerate(zip(columns, rows, strict=True)):
        top = i * (height + _CAPTION + _GAP)
        draw.text((_GAP, top + _GAP), caption, fill="black")
        picture.paste(photo, (0, top + _CAPTION))
        for k, position in enumerate(np.linspace(0, len(frames) - 1, _STRIP_FRAMES).round().astype(int)):
            picture.paste(Image.fromarray(frames[position]), (left + _GAP + k * (width + _GAP), top + _CAPTION))
    return np.asarray(picture)


def _fitted(photo, height):
    from PIL import Image

    picture = Image.fromarray(photo)
    return picture.resize((max(1, round(picture.width * height / picture.height)), height))
