"""The two halves of an identity (paper sections 3.2 and 3.3), and how they enter the conditioning."""

import logging

import comfy.model_management
import comfy.utils
import node_helpers
import numpy as np
import torch
from PIL import Image

from ..errors import ConsisIDError
from ..face.keypoints import draw_keypoints, map_points
from ..types import GlobalID, LocalID
from .face_models import EVA_MEMORY
from .transformer import load_facial_extractor

FITS = ("stretch", "letterbox")


def check_video_size(width, height, length):
    """Raise ConsisIDError, with the nearest valid value, unless the VAE and the patches divide the size evenly."""
    for name, value in (("width", width), ("height", height)):
        if value % 16 or value < 16:
            nearest = max(16, round(value / 16) * 16)
            raise ConsisIDError(f"{name} {value} is not a multiple of 16; the nearest is {nearest}.")
    if length % 4 != 1 or length < 1:
        nearest = max(1, round((length - 1) / 4) * 4 + 1)
        raise ConsisIDError(f"length {length} is not 4n+1 frames; the nearest is {nearest}.")


def check_vae(vae):
    """Raise ConsisIDError unless this is a CogVideoX VAE, ours or ComfyUI's.

    The shape of its latents would not tell: those of Wan's and HunyuanVideo's VAEs have the same.
    """
    net = type(vae.first_stage_model).__name__
    if "CogVideoX" not in net:
        raise ConsisIDError(f"VAE is {net}, not a CogVideoX VAE. Load ConsisID's with Load ConsisID VAE.")


def fit_picture(picture, width, height, fit):
    """uint8 [H, W, 3] -> uint8 [height, width, 3] by PIL's Lanczos, as diffusers' VideoProcessor resizes.

    stretch ignores the aspect ratio, as ConsisID was trained; letterbox keeps it on white.
    """
    image = Image.fromarray(picture)
    if fit == "stretch":
        return np.array(image.resize((width, height), Image.Resampling.LANCZOS))
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.array(canvas)


def extract_global_id(face, vae, width, height, length, fit="stretch", keypoints=False, noise_augmentation=0.0):
    """Low-frequency half: the face image through the VAE, in frame 0 of an otherwise empty video.

    Of several photos the first is used. keypoints puts the drawn landmarks into frame 1 (for weights trained with
    `is_kps`). noise_augmentation: standard deviation of the noise added to pixels in -1..1, as training did with about
    0.05 (official train.py:850). Raises ConsisIDError for a size that the model cannot take, or another VAE.
    """
    check_vae(vae)
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


def extract_local_id(model, face_models, face):
    """High-frequency half: recogniser embedding and EVA features through the model's facial extractor.

    Only the extractor's weights are loaded. The tokens of several photos are averaged.
    Raises ConsisIDError if the model is not ConsisID or takes features of another width.
    """
    from ..face.eva_clip import preprocess

    extractor_patcher, dtype = load_facial_extractor(model)
    config = extractor_patcher.model.config
    eva, eva_device = face_models.eva.model, face_models.eva.load_device
    # Both at once: with smart memory off, loading one of them unloads the other.
    comfy.model_management.load_models_gpu([face_models.eva, extractor_patcher], memory_required=EVA_MEMORY)
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


def blend_local_ids(first, second, ratio):
    """(1 - ratio) first + ratio second, of LocalIDs with tokens of one shape.

    Raises ConsisIDError for tokens of different shapes or a ratio outside 0..1.
    """
    if first.tokens.shape != second.tokens.shape:
        raise ConsisIDError(
            f"local_id_1 has tokens of shape {list(first.tokens.shape)}, local_id_2 of {list(second.tokens.shape)}: "
            "they were made with different models. Connect the same MODEL to both extractors."
        )
    if not 0 <= ratio <= 1:
        raise ConsisIDError(f"ratio {ratio} is outside 0..1; 0 is local_id_1 alone, 1 is local_id_2.")
    return LocalID(first.tokens * (1 - ratio) + second.tokens * ratio)


def condition(
    positive,
    negative,
    global_id,
    local_id=None,
    global_strength=1.0,
    local_strength=1.0,
    start_percent=0.0,
    end_percent=1.0,
    batch_size=1,
):
    """Attach an identity to both prompts, as the reference does, and make the empty latent of its size.

    The range is that of the local half, in fractions of sampling. Returns (positive, negative, LATENT).
    """
    if start_percent > end_percent:
        raise ConsisIDError(f"start_percent {start_percent} lies after end_percent {end_percent}; swap them.")
    values = {"concat_latent_image": global_id.latents * global_strength}
    if local_id is not None and local_strength != 0:
        values["identity_tokens"] = local_id.tokens
        values["identity_scale"] = local_strength
        values["identity_range"] = (start_percent, end_percent)
    latent = torch.zeros(
        (batch_size, *global_id.latents.shape[1:]), device=comfy.model_management.intermediate_device()
    )
    return (
        node_helpers.conditioning_set_values(positive, values),
        node_helpers.conditioning_set_values(negative, values),
        {"samples": latent},
    )
