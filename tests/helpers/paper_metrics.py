"""The paper's four measures of a video file, from the description of its evaluation code and nothing of this pack.

    faces = find_faces("video.mp4", "photo.png", analysis)
    facesim_arc(faces), facesim_cur(faces, recogniser), face_distance(faces, inception)
    clip_score("video.mp4", "a prompt", model, processor)

The oracle of `protocol="paper"`. Everything is float64 once a net has answered.
"""

from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
import torch
from insightface.app import FaceAnalysis
from insightface.utils import face_align
from PIL import Image
from torchvision.transforms import Compose, Resize, ToTensor

SAMPLES = 16
GREY = [128, 128, 128]


class Found(NamedTuple):
    embedding: np.ndarray
    crop: Image.Image  # 224 x 224, RGB


class Faces(NamedTuple):
    reference: Found
    frames: list[Found]  # of the sampled frames that show a face
    sampled: int
    padded: int  # how many of them showed it only with a border


def face_analysis(root, name):
    """insightface's own, of the pack root/models/name, with the detector input that the paper's code sets."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # More would wait for each other in loops.
    analysis = FaceAnalysis(name=name, root=str(root), providers=["CPUExecutionProvider"], sess_options=options)
    analysis.prepare(ctx_id=0, det_size=(320, 320))
    return analysis


def find_faces(video, picture, analysis):
    """Faces of a picture file and of 16 frames from the first to the last of a video file."""
    photo = np.asarray(Image.open(picture).convert("RGB"))
    reference, _ = largest_face(photo[:, :, ::-1].copy(), analysis)
    positions = [int(x) for x in np.linspace(0, frame_count(video) - 1, SAMPLES)]
    # A short video has a frame several times; one look at it will do.
    once = {position: largest_face(frame, analysis) for position, frame in read_frames(video, positions).items()}
    looks = [once[position] for position in positions if position in once]
    found = [face for face, _ in looks if face is not None]
    return Faces(reference, found, len(looks), sum(padded for face, padded in looks if face is not None))


def frame_count(video):
    return int(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT))


def read_frames(video, positions):
    """{position: frame}, BGR as OpenCV gives it, without those that it does not give.

    One after the other, not by CAP_PROP_POS_FRAMES: that goes by the mean rate, and where the rate varies it gives
    another frame, or none for the last one.
    """
    capture, frames = cv2.VideoCapture(str(video)), {}
    for number in range(max(positions) + 1):
        there = capture.grab()
        if there and number in positions:
            there, frames[number] = capture.retrieve()
        if not there:
            break
    capture.release()
    return frames


def largest_face(bgr, analysis):
    """(Found or None, whether it took a grey border of a quarter of the height and of the width)."""
    rows, columns = int(bgr.shape[0] * 0.25), int(bgr.shape[1] * 0.25)
    faces, offset = analysis.get(bgr), (0, 0)
    if not faces:
        framed = cv2.copyMakeBorder(bgr, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=GREY)
        faces, offset = analysis.get(framed), (columns, rows)
    if not faces:
        return None, False
    face = max(faces, key=lambda face: np.prod(face.bbox[2:] - face.bbox[:2]))
    # Cut out of the picture without the border.
    landmarks = face.kps - np.float32(offset)  # float32, as without a border: a pixel of the crop may depend on it.
    crop = face_align.norm_crop(bgr, landmark=landmarks, image_size=224)
    return Found(face.embedding.astype(np.float64), Image.fromarray(crop[:, :, ::-1].copy())), any(offset)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def mean_of_positive(cosines):
    return sum(max(0.0, x) for x in cosines) / len(cosines) if cosines else 0.0


def facesim_arc(faces):
    return mean_of_positive([cosine(faces.reference.embedding, face.embedding) for face in faces.frames])


def facesim_cur(faces, recogniser):
    """recogniser: torch module, [1, 3, 112, 112] in -1..1 -> [1, 512]."""

    def embed(face):
        small = cv2.resize(np.asarray(face.crop), (112, 112)).astype(np.float32)
        x = torch.from_numpy((small / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
        with torch.no_grad():
            return recogniser(x)[0].double().numpy()

    reference = embed(faces.reference)
    return mean_of_positive([cosine(reference, embed(face)) for face in faces.frames])


def face_distance(faces, inception):
    """The paper's "FID": one picture against one picture. Each stands twice in its set, so a covariance is that of two
    equal rows, zero, and the Fréchet distance is what remains: the squared distance of the means.

    inception: torchvision's net with the classifier removed, [1, 3, 299, 299] in 0..1 -> [1, 2048].
    """
    to_input = Compose([Resize((299, 299)), ToTensor()])

    def activation(face):
        with torch.no_grad():
            return inception(to_input(face.crop)[None])[0].double().numpy()

    reference = activation(faces.reference)
    distances = [np.sum((reference - activation(face)) ** 2) for face in faces.frames]
    return float(np.mean(distances)) if distances else 0.0


def clip_score(video, prompt, model, processor):
    """Of 16 frames, the first of sixteen equal parts each, with red and blue the wrong way round."""
    count = frame_count(video)
    positions = [count * part // SAMPLES for part in range(SAMPLES)]
    frames = read_frames(video, positions)
    pictures = [frames[position] for position in positions if position in frames]
    inputs = processor(text=prompt, images=pictures, return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        return model(**inputs).logits_per_image.double().mean().item()
