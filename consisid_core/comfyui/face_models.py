"""Face nets in ComfyUI's memory management, and the way from photos to a FACE."""

from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import numpy as np
import torch

from ..errors import ConsisIDError, optional_library
from ..face.analysis import (
    FaceDetector,
    align_photo,
    draw_detections,
    order_faces,
    resolve_providers,
    select_face,
    to_photo,
)
from ..types import Face
from .files import about, log_demo_weights, read_state_dict


@dataclass(frozen=True)
class FaceModels:
    """The three nets of the face path, loaded once."""

    detector: FaceDetector
    """Detection and recognition, in onnxruntime."""
    parser: comfy.model_patcher.ModelPatcher
    """BiSeNet face parsing."""
    eva: comfy.model_patcher.ModelPatcher
    """EVA02-CLIP image tower."""


def load_face_models(pack_folder, parsing_path, eva_path, provider):
    """FaceModels from an insightface pack folder and two weight files; provider as in `PROVIDER_CHOICES`.

    Raises ConsisIDError naming the file or folder that is missing, damaged or of another kind.
    """
    with optional_library("Face analysis"):
        from ..face.eva_clip import EvaClipVisual
        from ..face.parsing import BiSeNet
    detector = FaceDetector(pack_folder, resolve_providers(provider))
    if detector.is_demo:
        log_demo_weights(pack_folder)
    parser = _load_net(BiSeNet, parsing_path, torch.float32, "Choose parsing_bisenet.pth of ConsisID-preview")
    device = comfy.model_management.text_encoder_device()
    eva_dtype = torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
    eva = _load_net(EvaClipVisual, eva_path, eva_dtype, "Choose EVA02_CLIP_L_336_psz14_s6B.pt of ConsisID-preview")
    return FaceModels(detector, parser, eva)


def _load_net(net_class, path, dtype, remedy):
    state_dict, _ = read_state_dict(path)
    with about(path, remedy):
        net = net_class.from_state_dict(state_dict)
    return comfy.model_patcher.ModelPatcher(
        net.to(dtype),
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )


def run_on_device(patcher, image, memory_per_pixel):
    """Load a net where ComfyUI wants it and return it with the image on that device.

    memory_per_pixel: bytes that one forward needs for each pixel of the image.
    """
    pixels = image.shape[0] * image.shape[-2] * image.shape[-1]
    comfy.model_management.load_models_gpu([patcher], memory_required=pixels * memory_per_pixel)
    return patcher.model, image.to(patcher.load_device)


def analyze_faces(face_models, images, selection, face_index, background):
    """The chosen face of each photo.

    images: [B, H, W, C] photos of one person, 0..1. selection, face_index: see `select_face`.
    background: "remove" whitens everything but the person's head, "keep" leaves the crop as it is.
    Returns (Face, detections [B, H, W, 3]: the photos with every detected face drawn in).
    Raises ConsisIDError naming the photo in which no such face is found.
    """
    from ..face.parsing import keep_background, whiten_background

    if len(images) == 0:
        raise ConsisIDError("image is an empty batch: no photo arrived from the node before.")
    progress = comfy.utils.ProgressBar(len(images))
    faces, alignments, colours, grays, drawings = [], [], [], [], []
    for number, image in enumerate(images, start=1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            photo = to_photo(image)
            found = face_models.detector.detect(photo)
            chosen = select_face(found, selection, face_index, photo.shape[:2])
            crop, alignment = align_photo(photo, found[chosen])
        except ConsisIDError as error:
            which = f"Photo {number} of {len(images)} ({image.shape[1]}x{image.shape[0]}): " if len(images) > 1 else ""
            raise ConsisIDError(f"{which}{error}") from None
        crop = _to_tensor(crop).movedim(-1, 1)
        if background == "remove":
            parser, crop = run_on_device(face_models.parser, crop, memory_per_pixel=600)
            colour, gray = whiten_background(parser, crop)
        else:
            colour, gray = keep_background(crop)
        faces.append(found[chosen])
        alignments.append(torch.from_numpy(alignment))
        colours.append(colour.movedim(1, -1).cpu())
        grays.append(gray.movedim(1, -1).cpu())
        # Numbered in the order of the selection, so that the number in the picture is the face_index to choose.
        ordered = [found[i] for i in order_faces(found, selection, photo.shape[:2])]
        drawings.append(_to_tensor(draw_detections(photo, ordered, face_index)))
        progress.update(1)
    face = Face(
        embedding=torch.from_numpy(np.stack([face.embedding for face in faces])),
        landmarks=torch.from_numpy(np.stack([face.landmarks for face in faces])),
        bbox=torch.from_numpy(np.stack([face.bbox for face in faces])),
        score=torch.tensor([face.score for face in faces]),
        image=torch.cat(colours),
        gray_image=torch.cat(grays),
        alignment=torch.stack(alignments),
    )
    return face, torch.cat(drawings)


def _to_tensor(picture):
    """uint8 [H, W, 3] -> float32 [1, H, W, 3] in 0..1."""
    return torch.from_numpy(picture).float().div(255).unsqueeze(0)
