"""Videos and pictures as files."""

import av
import cv2
import numpy as np
import torch
from PIL import Image

from helpers.pictures import package_file


def clip_file(name):
    return package_file("feat", f"tests/data/{name}")


def write_video(path, pictures, quality=18, **options):
    """H.264 in whatever the name of the file says. pictures: uint8 [H, W, 3] with even sides."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", 24, options={"crf": str(quality), "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
    return path


def write_picture(path, picture):
    Image.fromarray(picture).save(path)
    return path


def batch(pictures):
    """Pictures as ComfyUI's IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float() / 255


def read_frames(name, start, count, step=1):
    capture = cv2.VideoCapture(str(package_file("feat", f"tests/data/{name}")))
    capture.set(cv2.CAP_PROP_POS_FRAMES, start)
    frames = [capture.read()[1] for _ in range(count * step)]
    return [cv2.resize(frame, (480, 270)) for frame in frames[::step]]


def write_clip(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
