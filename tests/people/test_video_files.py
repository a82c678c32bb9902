import cv2
import numpy as np
import pytest
from consisid_pack.consisid_core.people import video_files


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 34, 50, 3), np.uint8)


def test_pictures_are_lossless(tmp_path, frames):
    file = tmp_path / "a.mp4"
    video_files.write_pictures(file, frames, 8)
    np.testing.assert_array_equal(video_files.read(file), frames)
    capture = cv2.VideoCapture(str(file))
    assert capture.get(cv2.CAP_PROP_FPS) == 8
    seen = [capture.read()[1][..., ::-1] for _ in frames]
    assert np.abs(np.stack(seen).astype(int) - frames).max() <= 1


def test_labels_are_lossless(tmp_path, frames):
    file, labels = tmp_path / "a.mkv", frames[..., 0] % 19
    video_files.write_labels(file, labels, 8)
    np.testing.assert_array_equal(video_files.read(file, grey=True), labels)
    capture = cv2.VideoCapture(str(file))
    np.testing.assert_array_equal(np.stack([capture.read()[1][..., 0] for _ in labels]), labels)


def test_same_frames_same_bytes(tmp_path, frames):
    for name in ("a", "b"):
        video_files.write_pictures(tmp_path / f"{name}.mp4", frames, 8)
        video_files.write_labels(tmp_path / f"{name}.mkv", frames[..., 0], 8)
    for suffix in ("mp4", "mkv"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
