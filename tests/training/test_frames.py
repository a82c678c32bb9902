"""Which frames a clip has, how they are cut, and their masks, against the official code's formulas."""

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.cache import Geometry
from consisid_pack.consisid_core.training.frames import (
    choose_clips,
    frame_rate,
    latent_mask,
    place_window,
    read_masks,
    resize,
    resized_size,
    segments,
)
from consisid_pack.consisid_core.training.manifest import Refused
from helpers.training_videos import write_masks
from helpers.videos import write_video
from torchvision import transforms

GEOMETRY = Geometry(width=96, height=64, frames=9, stride=3)


def test_gaps_part_a_video():
    assert segments([0, 1, 2, 9, 10, 17, 20, 26], 6) == [range(17, 27), range(0, 3), range(9, 11)]
    assert segments([5], 6) == [range(5, 6)]
    assert segments([], 6) == []


@pytest.mark.parametrize("length", [25, 26, 39, 40, 100, 333])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_clips_fit_and_do_not_overlap(length, count):
    stretch = range(10, 10 + length)
    clips = choose_clips([stretch], GEOMETRY, count)
    assert 1 <= len(clips) <= count
    for clip in clips:
        assert len(clip) == 9 and clip.step == 3 and clip[0] in stretch and clip[-1] in stretch
    assert all(one[-1] < other[0] for one, other in zip(clips, clips[1:], strict=False))
    if length == 333:
        assert len(clips) == count
        assert clips[0][0] - 10 >= 7 and stretch[-1] - clips[-1][-1] >= 7


def test_a_short_video_takes_frames_closer_together():
    assert choose_clips([range(20)], GEOMETRY, 3) == [range(1, 18, 2)]
    assert choose_clips([range(9)], GEOMETRY, 3) == [range(9)]
    assert choose_clips([range(4, 5)], Geometry(frames=1), 1) == [range(4, 5, 3)]


def test_too_short_is_refused():
    with pytest.raises(Refused, match="seen in 8 frames on end, and a clip has 9") as caught:
        choose_clips([range(8), range(20, 25)], GEOMETRY, 1)
    assert caught.value.kind == "too short"


def official_resize_and_crop(frames, target_width, target_height):
    """models/dataloader.py:711-745, from its description."""
    _, _, height, width = frames.shape
    aspect = width / height
    if aspect > target_width / target_height:
        new = target_height, int(target_height * aspect)
    else:
        new = target_height, int(target_height * aspect)
        if new[1] < target_width:
            new = int(target_width / aspect), target_width
    return transforms.CenterCrop((target_height, target_width))(transforms.Resize(new)(frames))


@pytest.mark.parametrize("size", [(128, 200), (200, 128), (64, 96), (63, 95), (480, 720), (100, 150), (90, 400)])
def test_frames_equal_the_official_ones(size):
    frame = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = official_resize_and_crop(frame[None], 96, 64)[0]
    resized = resized_size(size, GEOMETRY)
    middle = np.array([resized[1] / 2 - 1, resized[0] / 2 - 1, resized[1] / 2 + 1, resized[0] / 2 + 1])
    window = place_window(resized, middle[None], GEOMETRY)
    assert window.is_middle
    assert torch.equal(window.cut(resize(frame, resized)), expected)


@pytest.mark.parametrize(
    ("box", "top"),
    [
        ((40, 60, 60, 80), 36),
        ((40, 10, 60, 30), 4),
        ((40, 0, 60, 20), 0),
        ((40, 100, 60, 120), 62),
        ((0, 0, 96, 136), 72),
    ],
)
def test_the_window_follows_the_face(box, top):
    """Frames of 96x136: the official code cuts rows 36 to 100, whatever is there."""
    window = place_window((136, 96), np.array([box]), GEOMETRY)
    assert (window.top, window.left) == (top, 0)
    assert window.is_middle == (top == 36)


def test_masks_are_resized_with_the_first_frame_apart():
    mask = torch.rand(9, 64, 96, generator=torch.Generator().manual_seed(0))
    latents = latent_mask(mask, GEOMETRY)
    assert latents.shape == (3, 8, 12)
    # A first latent frame of one video frame, the others of four; so no later frame reaches into it, nor it into them.
    for frame in range(9):
        changed = mask.clone()
        changed[frame] = 0
        moved = (latent_mask(changed, GEOMETRY) - latents).abs().amax((1, 2)) > 0
        home = (frame + 3) // 4
        assert not moved[torch.arange(3) != home].any()
    rest = torch.nn.functional.interpolate(mask[None, None, 1:], (2, 8, 12), mode="trilinear", align_corners=False)
    assert torch.equal(latents[1:], rest[0, 0])
    assert latent_mask(torch.ones(9, 64, 96), GEOMETRY).eq(1).all()
    assert latent_mask(mask[:1], Geometry(96, 64, 1)).shape == (1, 8, 12)


def numbered_masks(count):
    """Frame i has i + 1 pixels in its mask."""
    masks = np.zeros((count, 32, 48), bool)
    for i, mask in enumerate(masks):
        mask.reshape(-1)[: i + 1] = True
    return masks


@pytest.mark.parametrize("first", [0, 1])
def test_png_masks_go_by_their_numbers(tmp_path, first):
    write_masks(tmp_path / "masks", numbered_masks(12), first)
    (tmp_path / f"masks/annotated_frame_{first + 1:05d}.png").unlink()  # Is in no clip here.
    masks = read_masks(tmp_path / "masks", range(2, 12, 3), (32, 48))
    assert [mask.sum() for mask in masks] == [3, 6, 9, 12]


def test_a_video_of_masks(tmp_path):
    masks = np.zeros((8, 32, 48, 3), np.uint8)
    for i in range(8):
        masks[i, :, : 8 + 4 * i] = 255
    write_video(tmp_path / "mask.mp4", masks)
    found = read_masks(tmp_path / "mask.mp4", range(1, 8, 2), (32, 48))
    assert [mask.any(axis=0).sum() for mask in found] == pytest.approx([12, 20, 28, 36], abs=1)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    write_masks(tmp_path / "masks", numbered_masks(5))
    with pytest.raises(Refused, match="has none for 2 frames of the clip, first for 5"):
        read_masks(tmp_path / "masks", range(3, 7), (32, 48))
    with pytest.raises(Refused, match="is 48x32 in frame 0, and the video is 64x32"):
        read_masks(tmp_path / "masks", range(3), (32, 64))
    (tmp_path / "masks/annotated_frame_00001.png").write_bytes(b"no picture")
    with pytest.raises(Refused, match="annotated_frame_00001.png cannot be read"):
        read_masks(tmp_path / "masks", range(3), (32, 48))
    with pytest.raises(ConsisIDError, match="absent.mp4 does not exist"):
        read_masks(tmp_path / "absent.mp4", range(3), (32, 48))


def test_frame_rate(tmp_path):
    assert frame_rate(write_video(tmp_path / "a.mp4", np.zeros((3, 32, 48, 3), np.uint8))) == 24
