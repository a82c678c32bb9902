"""The detections drawn into their photo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .detected_face import DetectedFace

_CHOSEN_COLOR = (255, 205, 0)
_OTHER_COLOR = (70, 150, 255)  # yellow and blue differ in brightness too, for every kind of colour vision


def draw_detections(photo: np.ndarray, faces: Sequence[DetectedFace], chosen: int) -> np.ndarray:
    """Marks every face in a photo: box, five landmarks, and a label with number, score and box size in px.

    Args:
        photo: [H, W, 3] uint8 RGB (`Photo.pixels`); left as it is.
        faces: its faces, numbered in this order from 0 (`order_faces`).
        chosen: position of the chosen face, drawn on top in yellow with thick lines; the others are blue.

    Returns:
        [H, W, 3] uint8 RGB. Lines and text grow with the photo.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture)
    unit = math.sqrt(picture.width * picture.height)
    line = max(1, round(unit / 400))
    font = ImageFont.load_default(size=max(10, round(unit * 0.024)))
    drawing_order = sorted(range(len(faces)), key=lambda i: i == chosen)
    for i in drawing_order:
        color, weight = (_CHOSEN_COLOR, 2) if i == chosen else (_OTHER_COLOR, 1)
        draw.rectangle(faces[i].bbox.tolist(), outline=color, width=weight * line)
        for x, y in faces[i].landmarks.tolist():
            draw.ellipse((x - line, y - line, x + line, y + line), fill=color)
    taken = [face.bbox.tolist() for face in faces]
    for i in drawing_order:
        width, height = faces[i].size
        text = f"#{i} {faces[i].score:.2f} {width:.0f}x{height:.0f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        plate = _free_place((right - left + 2 * line, bottom - top + 2 * line), taken[i], picture.size, taken)
        draw.rectangle(plate, fill=_CHOSEN_COLOR if i == chosen else _OTHER_COLOR)
        draw.text((plate[0] + line - left, plate[1] + line - top), text, font=font, fill=(0, 0, 0))
        taken.append(plate)
    return np.array(picture)


def _free_place(size, box, picture_size, taken):
    """Box of `size` above or below `box`, inside the picture, where it hides the least of the `taken` boxes."""
    (width, height), (x1, y1, x2, y2) = size, box
    limits = picture_size[0] - width, picture_size[1] - height

    def placed(x, y):
        x, y = (max(0, min(value, limit)) for value, limit in zip((x, y), limits, strict=True))
        return x, y, x + width, y + height

    def hidden(place):
        return sum(
            max(0, min(place[2], other[2]) - max(place[0], other[0]))
            * max(0, min(place[3], other[3]) - max(place[1], other[1]))
            for other in taken
        )

    places = [placed(x, y) for y in (y1 - height, y2) for x in (x1, x2 - width)]
    return min(places, key=hidden)
