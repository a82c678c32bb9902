"""The frames of a video file, decoded one after the other by PyAV, which comes with ComfyUI; animated WebP by Pillow.

Pixels are those that OpenCV gives, by which the paper's code reads: colours by the matrix and range that the file names
(BT.601, limited, where it names none), turned upright by a quarter or half turn as the file asks, fields of interlaced
clips woven together, stretched pixels as stored. Transparency is dropped, so the colour beneath it shows: what the
encoder left there, in GIF white.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConsisIDError, in_short, is_out_of_memory, lack_of_memory, optional_library

log = logging.getLogger("consisid")

Picture = Callable[[], np.ndarray]
"""Gives a frame's uint8 [H, W, 3] RGB, until the next one is asked for. One that is passed over costs less."""

_BT601 = 5  # of swscale's numbers, which are those of H.273 but for the several names of BT.601.
_MATRICES = {0: _BT601, 1: 1, 2: _BT601, 3: _BT601, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}
"""Matrix of a frame by H.273 -> the one to convert by. YCgCo and others that swscale has not are not among them."""

_RE_ENCODE = "convert it to H.264: ffmpeg -i FILE -c:v libx264 -pix_fmt yuv420p NEW.mp4"

_UNNOTICED = 1.0  # seconds that sound, pictures and header may differ by in a whole file


def count_frames(path: Path) -> int:
    """Number of frames that `decode` gives, found by decoding, since headers only guess it or count hidden ones too.

    Of a file that breaks off and has an index of its frames, as many as that promises.

    Raises:
        ConsisIDError: as `decode` does.
    """
    if _is_animated_webp(path):
        return sum(1 for _ in decode(path))
    seen = _Seen()
    with _opened(path) as (container, stream):
        count = sum(1 for _ in _decoded(path, container, stream, seen))
        if seen.is_cut and seen.packets < stream.frames:
            return stream.frames
        if seen.failed:
            log.warning("%s is damaged: %d of its %d packets give no picture.", path, seen.failed, seen.packets)
        # Only this container has no index by frame, and says how long it lasts.
        length = (container.duration or 0) / 1e6
        if container.format.name.startswith("matroska") and seen.end + _UNNOTICED < length:
            log.warning("%s breaks off: it should last %.1f s, and ends after %.1f s.", path, length, seen.end)
        return count


@dataclass
class _Seen:
    """What a pass through a file has met."""

    packets: int = 0
    """Of the video stream."""
    failed: int = 0
    """Those among them that could not be decoded."""
    end: float = 0.0
    """Seconds, of all streams."""
    is_cut: bool = False
    """Whether the last packet of any stream is shorter than the file says."""


def decode(path: Path) -> Iterator[Picture]:
    """Every frame that a decoder gives, in the order in which they are shown, however long each of them is.

    What is damaged in between is passed over. Always from the first one on: jumps miss frames in many a file.

    Raises:
        ConsisIDError: naming the file and the cure: it is no video, nothing here can decode it, or memory is short.
    """
    return _webp_frames(path) if _is_animated_webp(path) else _av_frames(path)


def _av_frames(path):
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with _opened(path) as (container, stream):
        for frame in _decoded(path, container, stream, _Seen()):
            yield lambda frame=frame: _pixels(path, frame, reformatter)


def _decoded(path, container, stream, seen):
    """Frames of a stream. seen: a _Seen, which grows."""
    from av.error import FFmpegError

    decoder, found, failure = stream.codec_context, False, None
    for packet in _packets(container):
        if packet is not None:
            seen.is_cut = packet.is_corrupt
            if packet.pts is not None:
                seen.end = max(seen.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not stream:
                continue
            seen.packets += 1
        try:
            frames = decoder.decode(packet)
        except FFmpegError as error:
            if is_out_of_memory(error):
                raise lack_of_memory(f"The video {path} cannot be decoded") from None
            failure = error
            seen.failed += 1
            continue
        found |= bool(frames)
        yield from frames
    if failure and not found:
        raise ConsisIDError(
            f"No frame of the video {path} can be decoded ({decoder.codec.canonical_name}, {in_short(failure)}). It is "
            f"damaged or incomplete: save or download it again. Where it plays all the same, {_RE_ENCODE}"
        )


def _packets(container):
    """Those that hold something, as far as they can be read, and None, by which a decoder gives what it has kept."""
    from av.error import FFmpegError

    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            break
        if packet is None:
            break
        if packet.size:  # An empty one, as for a frame left out, would end the decoding.
            yield packet
    yield None


@contextmanager
def _opened(path):
    """(container, its video stream that can be decoded)."""
    with optional_library("Reading a video"):
        import av
        from av.stream import Disposition

    try:
        # "file:" and the list of protocols: no name and no playlist makes it look elsewhere.
        options = {"protocol_whitelist": "file"}
        container = av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if is_out_of_memory(error):
            raise lack_of_memory(f"The video {path} cannot be read") from None
        raise ConsisIDError(
            f"The video {path} cannot be read: it is damaged, incomplete, or of a kind that PyAV does not know. "
            "Convert it to .mp4 (H.264)."
        ) from None
    with container:
        streams = container.streams.video
        if not streams:
            raise ConsisIDError(
                f"The video {path} holds no pictures, only {_contents(container)}. Choose the file that has them."
            )
        # A cover is no video, unless it is all that there is.
        stream = next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), streams[0])
        if stream.codec_context is None:
            raise ConsisIDError(
                f"The video {path} is encoded in a way that PyAV {av.__version__} has no decoder for. "
                f"With an FFmpeg that knows it, {_RE_ENCODE}"
            )
        # More threads lose the last frames of a damaged file, and may wait for each other for ever in FFmpeg 7.1.0.
        stream.codec_context.thread_count = 1
        yield container, stream


def _contents(container):
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _pixels(path, frame, reformatter):
    import cv2
    from av.error import FFmpegError
    from av.video.reformatter import Interpolation

    matrix = _MATRICES.get(int(frame.colorspace))
    if matrix is None:
        raise ConsisIDError(
            f"The colours of the video {path} cannot be converted (matrix {frame.colorspace:d} of H.273; most have 1, "
            f"5 or 6). Instead, {_RE_ENCODE}"
        )
    try:
        # BGR and bicubic, as OpenCV asks of the same library.
        converted = reformatter.reformat(
            frame, format="bgr24", interpolation=Interpolation.BICUBIC,
            src_colorspace=matrix, dst_colorspace=_BT601, src_color_range=frame.color_range,
        )  # fmt: skip
    except (FFmpegError, ValueError) as error:
        raise ConsisIDError(
            f"The pixels of the video {path} ({frame.format.name}) cannot be converted ({in_short(error)}). "
            f"Instead, {_RE_ENCODE}"
        ) from None
    quarters = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
    rgb = cv2.cvtColor(converted.to_ndarray(), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(np.rot90(rgb, quarters))


def _is_animated_webp(path):
    with open(path, "rb") as stream:
        head = stream.read(21)
    return len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def _webp_frames(path):
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as picture:
            for frame in ImageSequence.Iterator(picture):
                frame.load()
                yield lambda frame=frame: np.array(frame.convert("RGB"))
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError and more.
    except Exception as error:
        if is_out_of_memory(error):
            raise lack_of_memory(f"The video {path} cannot be decoded") from None
        raise ConsisIDError(
            f"The video {path} cannot be read: it is damaged or incomplete ({in_short(error)}). Save or download it "
            "again."
        ) from None
