"""The CogVideoX VAE as a ComfyUI VAE: our net inside a real `comfy.sd.VAE`, the same on every version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch

from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about
from ..checkpoint.nets import identify, vae_weights
from ..errors import ConsisIDError
from ..model.vae import CHUNK_VALUES, CogVideoXVAE, Pass
from .weight_files import read_weights

REMEDY = "Choose ConsisID's VAE: `vae/diffusion_pytorch_model.safetensors` of BestWishYsh/ConsisID-preview"


# Peaks of the released net, counted with `memory_count` at 256x256, 512x512 and 720x480 as values of the net's type: so
# many for each pixel of a frame, and what the chunks take. The estimates lie a little above the counts.
# In bf16, 49 frames of 720x480 count 4.8 GiB for decode and 3.3 GiB for encode, beside 0.4 GiB of weights.
CHUNKS_HELD = 3.5
LARGEST_CHUNK = 2**30
"""Convolutions of more values than diffusers gives them at once are not asked for: kernels count with 32 bits."""


class ComfyCogVideoXVAE(CogVideoXVAE):
    """The net in chunks as large as the device has room for, by ComfyUI's account of it."""

    def encode(self, pixels: torch.Tensor, run: Pass | None = None) -> torch.Tensor:
        """As CogVideoXVAE's."""
        return super().encode(pixels, run or Pass(chunk_values(pixels, encode_memory)))

    def decode(self, latents: torch.Tensor, run: Pass | None = None) -> torch.Tensor:
        """As CogVideoXVAE's."""
        return super().decode(latents, run or Pass(chunk_values(latents, decode_memory)))


def chunk_values(x: torch.Tensor, memory: Callable[[Sequence[int], torch.dtype], float]) -> int:
    """Values that a norm or a convolution may read at once: what half of the memory beyond `memory` has room for.

    Args:
        x: what is decoded or encoded, on its device.
        memory: `decode_memory` or `encode_memory`.
    """
    spare = comfy.model_management.get_free_memory(x.device) - len(x) * memory(x.shape, x.dtype)
    larger = spare / 2 / (CHUNKS_HELD * comfy.model_management.dtype_size(x.dtype))
    return int(min(CHUNK_VALUES + max(0, larger), LARGEST_CHUNK))


def decode_memory(shape: Sequence[int], dtype: torch.dtype) -> float:
    """Bytes that a decode of latents [B, 16, n, h, w] takes; one video of the batch at a time."""
    frames, height, width = shape[2:]
    # One batch of frames alone, or with what earlier batches left to the convolutions. The video grows beside them.
    per_pixel = 2150 if frames == 1 else 6250 if frames <= 3 else 7450 + 12 * (frames - 4)
    values = per_pixel * height * width * 64 + CHUNKS_HELD * CHUNK_VALUES
    return values * comfy.model_management.dtype_size(dtype)


def encode_memory(shape: Sequence[int], dtype: torch.dtype) -> float:
    """Bytes that an encode of pixels [B, 3, frames, H, W] takes; one video of the batch at a time."""
    frames, height, width = shape[2:]
    first_batch = min(frames, 8 + frames % 8)
    per_pixel = max(800 + 340 * first_batch, 4700 if frames > first_batch else 0) + 3 * frames
    values = per_pixel * height * width + CHUNKS_HELD * CHUNK_VALUES
    return values * comfy.model_management.dtype_size(dtype)


def load_vae(path: Path | str) -> comfy.sd.VAE:
    """`comfy.sd.VAE` of a CogVideoX VAE file.

    Raises:
        ConsisIDError: naming the file, if it is another VAE, incomplete, or holds values that are not finite.
    """
    checkpoint = read_weights(path)
    with about(path, REMEDY):
        weights = vae_weights(checkpoint)
    check_finite(checkpoint)  # Here, because the net reads all of the file when it takes its type.
    with torch.device("meta"):
        net = ComfyCogVideoXVAE(**weights.config)
    net.load_state_dict(weights.state_dict, assign=True)
    vae = wrap_vae(net.eval().requires_grad_(False))
    vae.patcher.cached_patcher_init = load_vae_patcher, (path,)
    return vae


def load_vae_patcher(path: Path | str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """Load a VAE once more, for ComfyUI's copies of a patcher.

    Args:
        path: as of `load_vae`.
        disable_dynamic: ComfyUI's; the patcher is a plain one anyway.
    """
    return load_vae(path).patcher


def require_cogvideox(vae: comfy.sd.VAE) -> None:
    """Raise ConsisIDError unless this is a CogVideoX VAE, ours or ComfyUI's.

    Latents and ratios alone would not tell: those of Wan's and HunyuanVideo's VAEs are the same. So the net's
    parameters are looked at as well.
    """
    net = vae.first_stage_model
    ratios = vae.spacial_compression_decode(), vae.temporal_compression_decode()
    if (vae.latent_channels, *ratios) != (16, 8, 4) or identify(net.state_dict()) != "vae":
        raise ConsisIDError(
            f"VAE is {type(net).__name__}, not a CogVideoX VAE. Load ConsisID's with Load ConsisID VAE."
        )


def wrap_vae(net: torch.nn.Module) -> comfy.sd.VAE:
    """A `comfy.sd.VAE` around the net, with its ratios and memory estimates."""
    vae = _empty_vae()
    vae.first_stage_model = net
    vae.latent_dim = 3
    vae.latent_channels = net.latent_channels
    vae.downscale_ratio = (lambda frames: max(0, (frames + 3) // 4), 8, 8)
    vae.upscale_ratio = (lambda frames: max(0, frames * 4 - 3), 8, 8)
    vae.downscale_index_formula = vae.upscale_index_formula = (4, 8, 8)
    vae.memory_used_decode = decode_memory
    vae.memory_used_encode = encode_memory
    vae.working_dtypes = [torch.bfloat16, torch.float16, torch.float32]
    vae.vae_dtype = comfy.model_management.vae_dtype(vae.device, vae.working_dtypes)
    net.to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        net, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = None
    vae.model_size()
    return vae


def _empty_vae():
    """A `comfy.sd.VAE` with the smallest net that its constructor takes, to be replaced."""
    params = {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        },
    }  # fmt: skip
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(**params).state_dict()
    return comfy.sd.VAE(sd=weights, config={"params": params})
