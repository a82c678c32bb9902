"""Validation videos as a file that plays, and side by side in one picture."""

import av
import numpy as np
from consisid_pack.consisid_core.training.pictures import FPS, strip, write_video


def frames_of(level, count=9, size=(32, 48)):
    return np.full((count, *size, 3), level, np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]


def test_a_video_plays_with_its_frames(tmp_path):
    frames = frames_of(100)
    write_video(frames, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == FPS and (stream.width, stream.height) == (48, 32)
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
    assert decoded.shape == frames.shape and np.abs(decoded.astype(int) - frames).max() <= 6


def test_the_strip_has_a_row_a_video_from_the_first_to_the_last_frame():
    photos = [np.full((80, 60, 3), 10, np.uint8), np.full((40, 60, 3), 20, np.uint8)]
    rows = [(photo, frames_of(level), f"video {level}") for photo, level in zip(photos, (100, 200), strict=True)]
    picture = strip(rows)
    for level in (10, 20, 100, 108, 200, 208):
        assert (picture == level).all(-1).sum() >= 32 * 20, level
    assert (strip(rows[:1]).shape[0]) * 2 == picture.shape[0]
