"""Lossless videos: H.264 for pictures, FFV1 for labels and masks. The same frames give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_pictures(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes [T, H, W, 3] uint8 RGB as .mp4, H.264 of RGB without loss: video programs and OpenCV read it."""
    options = {"qp": "0", "preset": "veryfast", "threads": "1"}
    _write(path, frames, fps, "libx264rgb", "rgb24", options)


def write_labels(path: Path, labels: np.ndarray, fps: int) -> None:
    """Writes [T, H, W] uint8 as a grey .mkv, FFV1."""
    _write(path, labels, fps, "ffv1", "gray", {"level": "3", "threads": "1"})


def read(path: Path, grey: bool = False) -> np.ndarray:
    """The frames of a file that this module wrote: [T, H, W, 3] uint8 RGB, or [T, H, W] of a grey one."""
    import av

    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="gray" if grey else "rgb24") for frame in file.decode(video=0)])


def _write(path, frames, fps, codec, pixel_format, options):
    import av

    # Otherwise the container carries a random number.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=pixel_format)))
        file.mux(stream.encode())
