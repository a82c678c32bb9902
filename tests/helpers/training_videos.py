"""Videos of a real face that moves, in files, and lists of them."""

import json

import cv2
import numpy as np
import skimage.data
from PIL import Image

from helpers.videos import write_video

SIZE = (256, 384)  # height, width


def moving_face(count, size=SIZE):
    """Pictures of one person who sways from side to side."""
    picture = skimage.data.astronaut()
    pictures = []
    for i in range(count):
        matrix = np.float64([[1, 0, size[1] / 2 - 220 + 18 * np.sin(i / 4)], [0, 1, 10 + 8 * np.cos(i / 3)]])
        pictures.append(cv2.warpAffine(picture, matrix, size[::-1], borderMode=cv2.BORDER_REPLICATE))
    return pictures


def write_face_video(path, count=30, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, moving_face(count, size))


def write_manifest(folder, *lines):
    """A manifest of these objects; `video` is enough, the rest is filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "manifest.jsonl"
    filled = [{"caption": "A woman smiles.", "person": "eileen", **line} for line in lines]
    file.write_text("\n".join(json.dumps(line) for line in filled), encoding="utf-8")
    return file


def write_masks(folder, pictures, first=0):
    """PNG files of 0 and 1, as the released annotations have them."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, start=first):
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"annotated_frame_{number:05d}.png")
    return folder


def write_official(folder, name="anna_0_30", count=30, people=("1",)):
    """One video in the layout of the released training data. Returns its total_train_data.txt."""
    write_face_video(folder / f"videos/{name}.mp4", count)
    (folder / "captions").mkdir()
    entry = {
        "path": f"anywhere/{name}.mp4", "cap": "A woman smiles.", "fps": 24.0, "duration": count / 24,
        "resolution": {"height": SIZE[0], "width": SIZE[1]},
    }  # fmt: skip
    (folder / "captions/captions.json").write_text(json.dumps([entry]))
    tracks = folder / "annotations/track_masks_data" / name
    tracks.mkdir(parents=True)
    seen = [i for i in range(count) if i != 4]
    texts = {
        "corresponding_data": {person: {"face": 3 * i + 2, "head": 3 * i + 3} for i, person in enumerate(people)},
        "valid_frame": {person: {"face": seen[:-2], "head": seen[1:]} for person in people},
        "control_sam2_frame": {person: {"face": 3, "head": 3} for person in people},
    }
    for stem, content in texts.items():
        (tracks / f"{stem}.json").write_text(json.dumps(content))
    write_masks(tracks / "tracking_mask_results/2", [_square() for _ in range(count)])
    list_file = folder / "total_train_data.txt"
    list_file.write_text("videos,captions/captions.json,annotations\n")
    return list_file


def _square():
    mask = np.zeros(SIZE)
    mask[60:160, 140:240] = 1
    return mask
