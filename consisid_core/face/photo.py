"""A picture on its way into the face path: as it came, and as small as the reference looks at it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConsisIDError

if TYPE_CHECKING:
    import torch
    from PIL import Image

LONG_EDGE = 1024
"""Larger photos are shrunk to this many pixels on their long edge before anything looks at them."""

MIN_SIDE = 16
"""Pictures with a shorter side cannot hold a face and are refused, or, when shrinking made them so, have none."""

_BITS, _PHOTOMETRIC = 258, 262  # TIFF tags; a photometric interpretation of 0 is "white is zero"


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo at both sizes. Two are equal only if they are one and the same."""

    pixels: np.ndarray
    """[H, W, 3] uint8 RGB as it came (`to_pixels`)."""
    name: str = "the photo"
    """What messages call it, for example "Photo 2 of 5"."""

    @cached_property
    def small(self) -> np.ndarray:
        """[h, w, 3] uint8 RGB, the long edge at most 1024 px; `pixels` itself where they are small enough."""
        return shrink_to_long_edge(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        return self.pixels.shape[:2]

    @property
    def to_small(self) -> np.ndarray:
        """[2, 3] float64 affine map from `pixels` to `small`."""
        return _resize_matrix(self.pixels, self.small)

    @property
    def from_small(self) -> np.ndarray:
        """[2, 3] float64 affine map from `small` to `pixels`."""
        return _resize_matrix(self.small, self.pixels)


def to_pixels(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Turns one ComfyUI picture into the uint8 RGB that everything here takes.

    Args:
        image: [H, W, C] float tensor or array, 0..1 (values outside are cut off). C = 1 grey, which is repeated;
            3 RGB; 4 RGBA, laid on white, the background ConsisID was trained on.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ConsisIDError: another shape, a side below 16 px, or values that are not numbers.
    """
    if hasattr(image, "detach"):
        image = image.detach().float().cpu().numpy()
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ConsisIDError(
            f"A photo must have the shape [height, width, 1, 3 or 4 channels]; this one has {list(image.shape)}."
        )
    height, width, channels = image.shape
    if min(height, width) < MIN_SIDE:
        raise ConsisIDError(
            f"The photo is {width}x{height} px, too small to hold a face (at least {MIN_SIDE} px on each side, "
            f"better {LONG_EDGE} px)."
        )
    if not np.isfinite(image).all():
        raise ConsisIDError(
            f"The photo ({width}x{height} px) contains NaN or infinite values, so a node before this one has failed: "
            "look at its output with Preview Image."
        )
    if channels == 4:
        alpha = image[..., 3:].clip(0, 1)
        image = image[..., :3] * alpha + (1 - alpha)
    pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return np.array(np.broadcast_to(pixels, (height, width, 3)))


def portable_photo(path: Path) -> bytes:
    """The content of a photo's file as any ComfyUI reads it: as it is, or for 16-bit grey, which 0.3.75 loads as white,
    as PNG of 8 bits.

    Raises:
        ConsisIDError: naming the file, if it cannot be read as a picture.
    """
    from PIL import Image, ImageOps

    try:
        with path.open("rb") as stream, Image.open(stream) as picture:
            picture.load()
            eight_bits = to_eight_bits(picture)
        if eight_bits is picture:
            return path.read_bytes()
        buffer = io.BytesIO()
        ImageOps.exif_transpose(eight_bits).save(buffer, "PNG")
        return buffer.getvalue()
    except ConsisIDError as error:
        raise ConsisIDError(f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConsisIDError(f"{path} cannot be read as a picture ({error}). Give a JPEG, PNG or WebP file.") from None


def to_eight_bits(picture: Image.Image) -> Image.Image:
    """Gives a picture that Pillow has opened 8 bits per channel.

    Pillow does so itself except for grey of 16 bits, which its `convert` cuts off at 255: nearly all becomes white.

    Args:
        picture: as `Image.open` returns it.

    Returns:
        The picture itself, or for 16-bit grey, which is 0..65535 (TIFF: of as many bits as it says, and inverted where
        it says so), a copy of mode L, or LA if one of the values is transparent, with the EXIF data.

    Raises:
        ConsisIDError: signed, 32-bit or floating-point pixels, which no format gives a white.
    """
    from PIL import Image

    # Older versions of Pillow open a 16-bit PNG as mode I, and every one a 16-bit PGM.
    if not picture.mode.startswith("I;16") and not (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        if picture.mode in ("I", "F"):
            raise ConsisIDError(
                "its pixels are signed, 32-bit or floating-point numbers, and nothing says which of them is white. "
                "Save it with 8 or 16 bits per channel."
            )
        return picture
    values, tags = np.asarray(picture), getattr(picture, "tag_v2", {})
    (bits,) = tags.get(_BITS, (16,))
    grey = np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    copy = Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)
    if "transparency" in picture.info:
        copy.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    copy.info["exif"] = picture.getexif().tobytes()
    return copy


def cut_off_hint(pixels: np.ndarray) -> str:
    """Why there may be no face, after a space: a sentence if nearly all values are the darkest or brightest, else "".

    Args:
        pixels: [H, W, 3] uint8 RGB without a face.
    """
    if (pixels == 255).any() and ((pixels == 0) | (pixels == 255)).mean() > 0.99:
        return (
            " Nearly all of its pixels are pure white or pure black: older versions of ComfyUI load a 16-bit greyscale "
            "file like that, so save it with 8 bits per channel."
        )
    return ""


def shrink_to_long_edge(pixels: np.ndarray, long_edge: int = LONG_EDGE) -> np.ndarray:
    """Shrinks a picture by LANCZOS4 so that its long edge has `long_edge` px; never enlarges.

    As diffusers `consisid_utils.py:42-62`.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        long_edge: in pixels.

    Returns:
        [h, w, 3] uint8 RGB; the picture itself where it is small enough.
    """
    import cv2

    height, width = pixels.shape[:2]
    factor = long_edge / max(height, width)
    if factor >= 1:
        return pixels
    size = max(1, int(width * factor)), max(1, int(height * factor))  # truncated as in the reference
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)


def _resize_matrix(source, target):
    """[2, 3] map from pixels of `source` to pixels of its resized copy `target`; pixel centres stay centres."""
    scale = np.divide(target.shape[1::-1], source.shape[1::-1])
    return np.column_stack([np.diag(scale), (scale - 1) / 2])
