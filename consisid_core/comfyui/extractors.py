"""The two halves of an identity out of an analysed face (paper sections 3.2 and 3.3)."""

from __future__ import annotations

import logging

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import numpy as np
import torch
from PIL import Image

from ..errors import ConsisIDError
from ..face.keypoints import draw_keypoints, map_points
from ..types import Face, GlobalID, LocalID
from .face_models import FaceModels
from .transformer import load_facial_extractor
from .vae import require_cogvideox

FITS = ("stretch", "letterbox")


def check_video_size(width: int, height: int, length: int) -> None:
    """Raise ConsisIDError, with the nearest valid value, unless the VAE and the patches divide the size evenly.

    Args:
        width, height: pixels, multiples of 16.
        length: frames, 4n+1.
    """
    for name, value in (("width", width), ("height", height)):
        if value % 16 or value < 16:
            nearest = max(16, round(value / 16) * 16)
            raise ConsisIDError(f"{name} {value} is not a multiple of 16; the nearest is {nearest}.")
    if length % 4 != 1 or length < 1:
        nearest = max(1, round((length - 1) / 4) * 4 + 1)
        raise ConsisIDError(f"length {length} is not 4n+1 frames; the nearest is {nearest}.")


def fit_picture(picture: np.ndarray, width: int, height: int, fit: str) -> np.ndarray:
    """Resize by PIL's Lanczos, as diffusers' VideoProcessor does.

    Args:
        picture: [H, W, 3] uint8.
        width, height: of the result, pixels.
        fit: "stretch" ignores the aspect ratio, as ConsisID was trained; "letterbox" keeps it on white.

    Returns:
        [height, width, 3] uint8.
    """
    image = Image.fromarray(picture)
    if fit == "stretch":
        return np.array(image.resize((width, height), Image.Resampling.LANCZOS))
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.array(canvas)


def extract_global_id(
    face: Face,
    vae: comfy.sd.VAE,
    width: int,
    height: int,
    length: int,
    fit: str = "stretch",
    keypoints: bool = False,
    noise_augmentation: float = 0.0,
) -> GlobalID:
    """Low-frequency half: the face image through the VAE, in frame 0 of an otherwise empty video.

    Args:
        face: of several photos the first is used.
        vae: CogVideoX's.
        width, height, length: of the video, pixels and frames.
        fit: one of FITS, see `fit_picture`.
        keypoints: put the drawn landmarks into frame 1, for weights trained with `is_kps`.
        noise_augmentation: standard deviation of the noise added to pixels in -1..1, as training did with about 0.05
            (official train.py:850).

    Raises:
        ConsisIDError: for a size that the model cannot take, or another VAE.
    """
    require_cogvideox(vae)
    check_video_size(width, height, length)
    pictures = [(face.image[0].numpy() * 255).astype(np.uint8)]
    if keypoints:
        if length < 5:
            raise ConsisIDError(f"keypoints need a second latent frame: set length to 5 or more (it is {length}).")
        logging.getLogger("consisid").warning(
            "The released ConsisID weights were not trained with key points: they may hurt the result. "
            "Use keypoints only with weights trained with is_kps."
        )
        pictures.append(draw_keypoints(map_points(face.alignment[0].numpy(), face.landmarks[0].numpy())))
    generator = torch.Generator("cpu").manual_seed(0)
    latents = []
    for picture in pictures:
        pixels = torch.from_numpy(fit_picture(picture, width, height, fit)).float().div(255).unsqueeze(0)
        # Half of the deviation, because these pixels are in 0..1.
        pixels = pixels + noise_augmentation / 2 * torch.randn(pixels.shape, generator=generator)
        latents.append(vae.encode(pixels).float().cpu())
    first = torch.cat(latents, dim=2)
    frames = (length - 1) // 4 + 1
    return GlobalID(torch.cat((first, first.new_zeros(1, 16, frames - first.shape[2], *first.shape[-2:])), dim=2))


def extract_local_id(model: comfy.model_patcher.ModelPatcher, face_models: FaceModels, face: Face) -> LocalID:
    """High-frequency half: recogniser embedding and EVA features through the model's facial extractor.

    Only the extractor's weights are loaded. The tokens of several photos are averaged.

    Raises:
        ConsisIDError: the model is not ConsisID, or takes features of another width.
    """
    from ..face.eva_clip import preprocess

    extractor_patcher, dtype = load_facial_extractor(model)
    config = extractor_patcher.model.config
    eva, eva_device = face_models.eva.model, face_models.eva.load_device
    # Both at once: with smart memory off, loading one of them unloads the other.
    comfy.model_management.load_models_gpu(
        [face_models.eva, extractor_patcher], memory_required=face.gray_image[0, :, :, 0].numel() * 300
    )
    progress = comfy.utils.ProgressBar(len(face.embedding))
    tokens = []
    for embedding, gray in zip(face.embedding, face.gray_image, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        image = gray.movedim(-1, 0).unsqueeze(0).to(eva_device)
        clip_embedding, hidden_states = eva(preprocess(image, eva.image_size))
        id_embedding = torch.cat((embedding.unsqueeze(0).to(clip_embedding), clip_embedding), dim=-1)
        if id_embedding.shape[-1] != config.id_dim or hidden_states[0].shape[-1] != config.vit_dim:
            raise ConsisIDError(
                f"The face models give features of width {id_embedding.shape[-1]} and {hidden_states[0].shape[-1]}, "
                f"but this MODEL takes {config.id_dim} and {config.vit_dim}: weights of different sizes are mixed, for "
                "example demo and released ones."
            )
        id_embedding, *hidden_states = (
            x.to(extractor_patcher.load_device, dtype) for x in (id_embedding, *hidden_states)
        )
        tokens.append(extractor_patcher.model(id_embedding, hidden_states).float().cpu())
        progress.update(1)
    return LocalID(torch.cat(tokens).mean(dim=0, keepdim=True))
