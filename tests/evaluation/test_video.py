"""Frames and pictures from files, and what is wrong with one."""

import itertools
import logging

import cv2
import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.video import FrameBatch, VideoFile, read_picture
from helpers.evaluation import refused
from helpers.videos import batch, clip_file, write_picture, write_video
from PIL import Image


def test_bad_videos_are_named(tmp_path, cases):
    with refused("The video .*gone.mp4 does not exist"):
        VideoFile(tmp_path / "gone.mp4")
    with refused(f"The video {tmp_path} does not exist"):
        VideoFile(tmp_path)
    whole = cases["five frames"][0].read_bytes()  # Its index is at the end.
    for name, content in (("text.mp4", b"not a video\n" * 99), ("cut.mp4", whole[: len(whole) // 2]), ("0.mp4", b"")):
        (tmp_path / name).write_bytes(content)
        with refused(f"The video .*{name} (cannot be read: it is damaged|holds no frames)"):
            VideoFile(tmp_path / name)


def test_bad_batches_are_named(strict, portrait, man):
    with refused("^video is an empty batch"):
        FrameBatch(torch.zeros(0, 8, 8, 3))
    with refused("^reference is an empty batch"):
        FrameBatch(torch.zeros(0, 8, 8, 3), "reference")
    images = batch(man[:3])
    images[2, 5, 5, 0] = torch.nan
    with refused("^Picture 2 of video: The photo .640x360 px. contains NaN"):
        strict.score(FrameBatch(images), portrait)


def test_a_video_gives_its_frames_in_order():
    video = VideoFile(clip_file("single_face.mp4"))
    capture = cv2.VideoCapture(str(video.path))
    count = 0
    for position, frame in video.frames():
        assert position == count and np.array_equal(frame, capture.read()[1][:, :, ::-1])
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        count += 1
    assert count == video.frame_count == 72 and not capture.read()[0]


def test_a_video_gives_the_frames_that_are_asked_for():
    video = VideoFile(clip_file("single_face.mp4"))
    whole = [frame for _, frame in video.frames()]
    asked = [0, 3, 3, 71, 40, 40]
    given = list(video.frames(asked))
    assert [position for position, _ in given] == asked
    assert all(np.array_equal(frame, whole[position]) for position, frame in given)
    assert [position for position, _ in video.frames([70, 500])] == [70]
    with refused("No frame of the video .*single_face.mp4 can be read"):
        list(video.frames([500]))


def test_a_video_that_breaks_off_is_scored_as_far_as_it_goes(tmp_path, strict, portrait, caplog):
    pictures = [frame for _, frame in itertools.islice(VideoFile(clip_file("single_face.mp4")).frames(), 40)]
    whole = write_video(tmp_path / "whole.mp4", pictures, movflags="faststart").read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole[: len(whole) // 2])
    video = VideoFile(broken)
    assert video.frame_count == 40
    with caplog.at_level(logging.WARNING, "consisid"):
        found = strict.score(video, portrait)
    count = len(found.positions)
    assert 5 < count < 40 and found.positions.tolist() == list(range(count)) and not np.isnan(found.arc).any()
    (warning,) = [record.getMessage() for record in caplog.records if "broken.mp4" in record.getMessage()]
    assert warning.endswith(f"should have 40 frames; {count} can be read.")


def test_a_picture_is_not_taken_for_a_series(tmp_path):
    """OpenCV reads x_1.png, x_2.png, ... as one video where it may."""
    for number in (1, 2, 3):
        write_picture(tmp_path / f"x_{number}.png", np.full((64, 64, 3), 60 * number, np.uint8))
    try:
        video = VideoFile(tmp_path / "x_2.png")
    except ConsisIDError as error:
        assert "x_2.png" in str(error)
    else:
        ((_, frame),) = video.frames()
        assert abs(int(frame[32, 32, 0]) - 120) < 5


def test_a_photo_on_its_side_is_turned_by_the_strict_reader_alone(tmp_path, astronaut):
    exif = Image.Exif()
    exif[0x0112] = 6  # To be seen turned by a quarter clockwise.
    Image.fromarray(astronaut[:, 100:]).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "photo.png", upright=False), astronaut[:, 100:])
    upright = read_picture(tmp_path / "photo.png", upright=True)
    assert np.array_equal(upright, np.rot90(astronaut[:, 100:], -1)) and upright.shape == (412, 512, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_picture_is_laid_on_white(tmp_path, mode):
    picture = np.full((32, 32, 4), (200, 40, 90, 255), np.uint8)
    picture[:16, :, 3] = 0
    path = tmp_path / "cut out.png"
    Image.fromarray(picture).convert(mode).save(path, **({"transparency": 0} if mode == "P" else {}))
    read_back = read_picture(path, upright=True)
    assert read_back.shape == (32, 32, 3) and read_back.dtype == np.uint8
    if mode != "P":
        assert (read_back[:16] == 255).all() and (read_back[16:] < 255).all()
    raw = read_picture(path, upright=False)
    assert np.array_equal(raw, np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_photos_are_read_as_their_8_bit_twins(tmp_path, astronaut, name, upright):
    grey = astronaut.mean(axis=2).astype(np.uint8)
    Image.fromarray(grey * np.uint16(257)).save(tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / name, upright), np.dstack([grey] * 3))
    for wide in (astronaut, np.dstack([astronaut, grey])):
        cv2.imwrite(
            str(tmp_path / name),
            cv2.cvtColor(wide, cv2.COLOR_RGB2BGR if wide.shape[2] == 3 else cv2.COLOR_RGBA2BGRA) * np.uint16(257),
        )
        Image.fromarray(wide).save(tmp_path / "twin.png")
        assert np.array_equal(read_picture(tmp_path / name, upright), read_picture(tmp_path / "twin.png", upright))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_photos_on_their_side_are_turned(tmp_path, astronaut, dtype, suffix):
    grey = astronaut[:, 100:, 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    values = grey * np.uint16(257) if dtype == np.uint16 else grey
    Image.fromarray(values).save(tmp_path / f"a.{suffix}", exif=exif)
    assert np.array_equal(read_picture(tmp_path / f"a.{suffix}", upright=True)[..., 0], np.rot90(grey, -1))


def test_the_first_picture_of_an_animation_is_read(tmp_path, astronaut):
    frames = [Image.fromarray(picture) for picture in (astronaut, 255 - astronaut)]
    for name in ("a.webp", "a.png", "a.tif"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "w" in name else {})
        )
        assert np.array_equal(read_picture(tmp_path / name, upright=True), astronaut)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_kinds_of_pictures_are_read_as_pillow_shows_them(tmp_path, astronaut, mode):
    picture = Image.fromarray(astronaut).convert(mode)
    picture.save(tmp_path / "a.tif")
    assert np.array_equal(read_picture(tmp_path / "a.tif", upright=True), np.asarray(picture.convert("RGB")))


def test_bad_pictures_are_named(tmp_path, astronaut):
    with refused("The picture .*gone.png does not exist"):
        read_picture(tmp_path / "gone.png", upright=True)
    (tmp_path / "text.png").write_text("no picture")
    path = write_picture(tmp_path / "cut.png", astronaut)
    path.write_bytes(path.read_bytes()[:9000])
    write_picture(tmp_path / "small.png", astronaut[:8, :8])
    for upright in (True, False):
        for name in ("text.png", "cut.png"):
            with refused(f"The picture .*{name} cannot be read .*Save it as"):
                read_picture(tmp_path / name, upright)
    Image.fromarray(astronaut[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    for upright in (True, False):
        with refused("The picture .*float.tif: its pixels are .* Save it with 8 or 16 bits per channel"):
            read_picture(tmp_path / "float.tif", upright)
    with refused("The picture .*small.png: The photo is 8x8 px, too small"):
        read_picture(tmp_path / "small.png", upright=True)
