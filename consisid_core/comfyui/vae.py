"""The CogVideoX VAE as a ComfyUI VAE: diffusers' net inside a real `comfy.sd.VAE`, the same on every version."""

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from diffusers import AutoencoderKLCogVideoX

from ..checkpoint import check_names, describe_weights
from ..errors import ConsisIDError
from .files import about, read_state_dict

REMEDY = "Choose ConsisID's VAE: `vae/diffusion_pytorch_model.safetensors` of BestWishYsh/ConsisID-preview"


class CogVideoXVAE(AutoencoderKLCogVideoX):
    """Tensors in, tensors out, as ComfyUI calls its VAE nets. Latents are unscaled."""

    device = None  # Written by ComfyUI's patcher, which diffusers' property does not allow.

    def encode(self, pixels):
        """[B, 3, 4n+1, H, W] in -1..1 -> mean latents [B, 16, n+1, H/8, W/8]."""
        return super().encode(pixels).latent_dist.mode()

    def decode(self, latents):
        """[B, 16, n+1, h, w] -> [B, 3, 4n+1, 8h, 8w], for an even number of latent frames too.

        There the reference gives the first latent frame four video frames instead of one; the last of them is kept,
        which is where that latent frame lies in time, so that tiles and short videos join up.
        """
        frames = super().decode(latents).sample
        return frames[:, :, 3:] if latents.shape[2] % 2 == 0 else frames


def infer_vae_config(shapes):
    """Constructor arguments of AutoencoderKLCogVideoX from parameter shapes (name -> shape)."""
    required = ("encoder.conv_out.conv.weight", "decoder.mid_block.resnets.0.norm1.conv_y.conv.weight")
    if missing := [name for name in required if name not in shapes]:
        raise ConsisIDError(f"is not a CogVideoX VAE: it looks like {describe_weights(shapes)} (no {missing[0]})")
    blocks = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down_blocks."))
    resnets = {name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")}
    channels = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight"][0] for i in range(blocks)]
    return {
        "block_out_channels": tuple(channels),
        "down_block_types": ("CogVideoXDownBlock3D",) * blocks,
        "up_block_types": ("CogVideoXUpBlock3D",) * blocks,
        "latent_channels": shapes["decoder.conv_in.conv.weight"][1],
        "layers_per_block": len(resnets),
    }


def load_vae(path):
    """`comfy.sd.VAE` of a CogVideoX VAE file. Raises ConsisIDError naming the file if it is another VAE."""
    state_dict, _ = read_state_dict(path)
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    with about(path, REMEDY), torch.device("meta"):
        net = CogVideoXVAE(**infer_vae_config(shapes))
        check_names(shapes, {name: tensor.shape for name, tensor in net.state_dict().items()})
    net.load_state_dict(state_dict, assign=True)
    return wrap_vae(net.eval().requires_grad_(False))


def wrap_vae(net):
    """A `comfy.sd.VAE` around the net, with its ratios and memory estimates."""
    vae = _empty_vae()
    vae.first_stage_model = net
    vae.latent_dim = 3
    vae.latent_channels = net.config.latent_channels
    vae.downscale_ratio = (lambda frames: max(0, (frames + 3) // 4), 8, 8)
    vae.upscale_ratio = (lambda frames: max(0, frames * 4 - 3), 8, 8)
    vae.downscale_index_formula = vae.upscale_index_formula = (4, 8, 8)
    # The net runs over 8 video frames (9 in the first batch) at a time, whatever the length. The reference's decode of
    # 480x720 peaks at 16 GB in bf16 without tiling: 2,600 values per pixel of those 9 frames.
    vae.memory_used_decode = lambda shape, dtype: (
        (2600 * min(9, max(1, shape[2] * 4 - 3)) * shape[3] * 8 * shape[4] * 8)
        * comfy.model_management.dtype_size(dtype)
    )
    vae.memory_used_encode = lambda shape, dtype: (
        (1300 * min(9, max(1, shape[2])) * shape[3] * shape[4]) * comfy.model_management.dtype_size(dtype)
    )
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
