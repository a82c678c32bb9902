"""Pictures on their way in: whatever ComfyUI has loaded becomes a photo, or a sentence says why not."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.keypoints import map_points
from consisid_pack.consisid_core.face.photo import (
    Photo,
    cut_off_hint,
    portable_photo,
    shrink_to_long_edge,
    to_eight_bits,
    to_pixels,
)
from helpers.pictures import similarity
from PIL import Image


def test_to_photo_gives_back_what_comfyui_loaded():
    photo = skimage.data.astronaut()
    as_comfyui = torch.from_numpy(photo.astype(np.float32) / 255)
    for image in (as_comfyui, as_comfyui.numpy(), as_comfyui.double()):
        result = to_pixels(image)
        assert result.dtype == np.uint8 and result.flags.c_contiguous and np.array_equal(result, photo)
    assert np.array_equal(to_pixels(as_comfyui * 3 - 1), to_pixels((as_comfyui * 3 - 1).clamp(0, 1)))
    assert np.abs(to_pixels(as_comfyui.bfloat16()).astype(int) - photo).max() <= 1


def test_grey_and_transparent_pictures(detector, astronaut_face):
    photo = torch.from_numpy(skimage.data.astronaut() / np.float32(255))
    grey = to_pixels(photo.mean(dim=2, keepdim=True))
    assert grey.shape == (512, 512, 3) and np.array_equal(grey[..., 0], grey[..., 2])
    (face,) = detector.detect(Photo(grey))
    assert np.allclose(face.landmarks, astronaut_face.landmarks, atol=3)
    assert similarity(face, astronaut_face) > 0.8

    alpha = torch.ones(512, 512, 1)
    alpha[:, 300:] = 0
    alpha[300:, :300] = 0.5
    cut_out = to_pixels(torch.cat([photo, alpha], dim=2))
    assert np.array_equal(cut_out[:300, :300], skimage.data.astronaut()[:300, :300])
    assert (cut_out[:, 300:] == 255).all()
    assert np.allclose(cut_out[300:, :300], (skimage.data.astronaut()[300:, :300] + 255.0) / 2, atol=0.6)
    assert len(detector.detect(Photo(cut_out))) == 1


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((1, 1, 3)), "1x1 px"),
        (np.zeros((15, 300, 3)), "300x15 px"),
        (np.full((32, 64, 3), np.nan), r"64x32 px.*NaN"),
        (np.full((32, 64, 1), np.inf), "infinite"),
        (np.zeros((1, 64, 64, 3)), r"\[1, 64, 64, 3\]"),
        (np.zeros((64, 64, 2)), r"\[64, 64, 2\]"),
        (np.zeros((64, 64)), r"\[64, 64\]"),
    ],
)
def test_unusable_pictures_are_refused(image, message):
    with pytest.raises(ConsisIDError, match=message):
        to_pixels(image)


GREY = skimage.data.astronaut().mean(axis=2).astype(np.uint8)
WIDE = GREY * np.uint16(257)


@pytest.mark.parametrize(
    ("name", "values", "options", "expected"),
    [
        ("a.png", WIDE, {}, GREY),
        ("a.tif", WIDE, {}, GREY),
        ("a.tif", WIDE, {"compression": "tiff_lzw"}, GREY),
        ("a.tif", WIDE.astype(">u2"), {}, GREY),
        ("a.tif", WIDE, {"tiffinfo": {262: 0}}, 255 - GREY),
        ("a.jp2", WIDE, {}, GREY),
        ("a.pgm", WIDE, {}, GREY),
        ("a.png", WIDE + np.uint16(100) * (GREY < 255), {}, GREY),
    ],
    ids=["PNG", "TIFF", "TIFF, compressed", "TIFF, big-endian", "TIFF, white is zero", "JPEG 2000", "PGM", "between"],
)
def test_16_bit_grey_is_as_its_8_bit_twin(tmp_path, name, values, options, expected):
    Image.fromarray(values).save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as picture:
        assert np.array_equal(np.asarray(to_eight_bits(picture)), expected)


def test_12_bit_tiff(tmp_path):
    values = np.array([[0, 4095, 2048, 16]])
    high, low = values[:, ::2], values[:, 1::2]  # Two values in three bytes.
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=-1).astype(np.uint8)
    path = tmp_path / "a.tif"
    Image.fromarray(packed.reshape(1, -1)).save(path, tiffinfo={})
    content = bytearray(path.read_bytes())
    for tag, old, new in ((256, 6, 4), (258, 8, 12)):  # Width and bits of a sample.
        at = content.index(tag.to_bytes(2, "little")) + 8
        assert content[at] == old
        content[at] = new
    path.write_bytes(content)
    with Image.open(path) as picture:
        assert picture.mode == "I;16"
        assert np.asarray(to_eight_bits(picture)).tolist() == [[0, 255, 128, 1]]


def test_the_transparent_value_and_the_turn_of_16_bit_grey_are_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(WIDE).save(tmp_path / "a.png", transparency=int(WIDE[5, 7]), exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        result = to_eight_bits(picture)
    assert result.mode == "LA" and result.getexif()[0x0112] == 6
    grey, alpha = np.moveaxis(np.asarray(result), 2, 0)
    assert np.array_equal(grey, GREY) and np.array_equal(alpha == 0, GREY[5, 7] == GREY) and 0 < alpha.mean() < 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_8_bit_pictures_stay_themselves(mode):
    picture = Image.fromarray(skimage.data.astronaut()).convert(mode)
    assert to_eight_bits(picture) is picture


@pytest.mark.parametrize(("name", "dtype"), [("a.tif", np.int32), ("a.tif", np.float32), ("a.pfm", np.float32)])
def test_pictures_without_a_white_are_refused(tmp_path, name, dtype):
    Image.fromarray(GREY.astype(dtype)).save(tmp_path / name)
    with (
        Image.open(tmp_path / name) as picture,
        pytest.raises(ConsisIDError, match="nothing says which of them is whi"),
    ):
        to_eight_bits(picture)


def test_what_a_16_bit_photo_becomes_in_older_comfyui_is_told_from_other_pictures():
    cut_off = np.asarray(Image.fromarray(WIDE).convert("RGB"))
    assert "16-bit greyscale" in cut_off_hint(cut_off) and "16-bit greyscale" in cut_off_hint(
        np.full_like(cut_off, 255)
    )
    for picture in (
        skimage.data.astronaut(),
        skimage.data.coffee(),
        np.zeros_like(cut_off),
        np.full_like(cut_off, 127),
    ):
        assert cut_off_hint(picture) == ""


def random_image(rng):
    """An array of any rank, shape, dtype and range; most have a shape that `to_photo` takes."""
    if rng.random() < 0.4:
        shape = tuple(rng.integers(0, 40, rng.integers(0, 6)))
    else:
        shape = (*np.exp(rng.uniform(np.log(8), np.log(400), 2)).astype(int), rng.choice([1, 3, 4, 3, 3, 2, 0]))
    dtype = rng.choice(["float32", "float64", "float16", "uint8", "int64", "bool"])
    scale = rng.choice([1e-30, 1, 1, 1, 300, 1e30])
    with np.errstate(over="ignore", invalid="ignore"):
        image = np.asarray(rng.normal(0.5, 0.3, shape) * scale).astype(dtype)
    if image.size and dtype.startswith("float") and rng.random() < 0.2:
        image.flat[rng.integers(image.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return torch.from_numpy(image) if rng.random() < 0.5 else image


def test_random_arrays_raise_nothing_but_our_error(detector):
    rng = np.random.default_rng(0)
    photos = refused = 0
    for _ in range(300):
        image = random_image(rng)
        try:
            photo = to_pixels(image)
        except ConsisIDError:
            refused += 1
            continue
        photos += 1
        for face in detector.detect(Photo(photo)):
            assert np.isfinite(face.bbox).all() and np.isfinite(face.embedding).all()
    assert photos > 60 and refused > 60, (photos, refused)


def test_shrinking_never_enlarges():
    photo = skimage.data.astronaut()
    assert shrink_to_long_edge(photo) is photo
    assert shrink_to_long_edge(np.zeros((500, 2000, 3), np.uint8)).shape == (256, 1024, 3)
    assert shrink_to_long_edge(np.zeros((16000, 16, 3), np.uint8)).shape == (1024, 1, 3)


def test_resized_pixels_keep_their_centres():
    photo = Photo(np.zeros((2048, 4096, 3), np.uint8))
    there, back = photo.to_small, photo.from_small
    corners = [[-0.5, -0.5], [4095.5, 2047.5]]
    assert np.allclose(map_points(there, corners), [[-0.5, -0.5], [1023.5, 511.5]])
    assert np.allclose(map_points(back, map_points(there, corners)), corners)


def test_a_photo_is_shrunk_once(poker):
    photo = Photo(poker)
    assert np.array_equal(photo.small, shrink_to_long_edge(poker)) and photo.small is photo.small
    assert photo.size == poker.shape[:2] and max(photo.small.shape) == 1024


def test_a_small_photo_is_its_own_copy(astronaut):
    photo = Photo(astronaut)
    assert photo.small is photo.pixels is astronaut
    assert np.array_equal(photo.to_small, [[1, 0, 0], [0, 1, 0]]) and np.array_equal(photo.from_small, photo.to_small)


def test_a_photo_travels_as_it_is_or_with_8_bits(tmp_path):
    grey = np.arange(64 * 64).reshape(64, 64).astype(np.uint16)
    for name, pixels in (("a.png", grey.astype(np.uint8)), ("b.png", grey * 15)):
        Image.fromarray(pixels).save(tmp_path / name)
    assert portable_photo(tmp_path / "a.png") == (tmp_path / "a.png").read_bytes()
    with Image.open(io.BytesIO(portable_photo(tmp_path / "b.png"))) as sent:
        assert sent.mode == "L" and sent.format == "PNG"
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(ConsisIDError, match="c.png cannot be read as a picture .*Give a JPEG, PNG or WebP file"):
        portable_photo(tmp_path / "c.png")
