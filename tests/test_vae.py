"""The VAE inside ComfyUI against diffusers, and its tiles and errors."""

import json

import comfy.sd
import pytest
import torch
from consisid_pack.consisid_core.comfyui.vae import CogVideoXVAE, infer_vae_config
from consisid_pack.consisid_core.tiny import VAE as TINY_VAE
from diffusers import AutoencoderKLCogVideoX
from safetensors.torch import load_file

NAME = "consisid_demo/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def vae(run_node):
    (vae,) = run_node("ConsisIDVAELoader", vae_name=NAME)
    assert isinstance(vae, comfy.sd.VAE)
    return vae


@pytest.fixture(scope="module")
def reference(models_dir):
    net = AutoencoderKLCogVideoX(**{k: v for k, v in TINY_VAE.items() if not k.startswith("_")})
    net.load_state_dict(load_file(models_dir / "vae" / NAME))
    return net.eval()


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 5])
def test_encode_equals_diffusers(vae, reference, frames):
    pixels = torch.rand(frames, 32, 48, 3)
    expected = reference.encode((pixels * 2 - 1).permute(3, 0, 1, 2)[None]).latent_dist.mode()
    assert torch.equal(vae.encode(pixels), expected)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_decode_equals_diffusers(vae, reference, frames):
    latents = torch.randn(1, 16, frames, 4, 6)
    expected = reference.decode(latents).sample
    assert torch.equal(vae.first_stage_model.decode(latents), expected)
    actual = vae.decode(latents)
    assert actual.shape == (1, frames * 4 - 3, 32, 48, 3)
    torch.testing.assert_close(actual, ((expected + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1), rtol=0, atol=1e-7)


@torch.inference_mode()
def test_even_latent_frames_keep_the_last_frames_of_the_reference(vae, reference):
    latents = torch.randn(1, 16, 4, 4, 6)
    expected = ((reference.decode(latents).sample + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1)
    actual = vae.decode(latents)
    assert expected.shape[1] == 16 and actual.shape[1] == 13
    torch.testing.assert_close(actual, expected[:, 3:], rtol=0, atol=1e-7)


@torch.inference_mode()
def test_tiled_decode_has_the_size_of_a_plain_one(vae):
    latents = torch.randn(1, 16, 5, 8, 12)
    plain = vae.decode(latents)
    tiled = vae.decode_tiled(latents, tile_x=8, tile_y=8, overlap=2, tile_t=3, overlap_t=1)
    assert tiled.shape == plain.shape
    one_tile = vae.decode_tiled(latents, tile_x=64, tile_y=64, overlap=8)
    torch.testing.assert_close(one_tile, plain, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_stock_decode_nodes(vae):
    import nodes as comfyui_nodes

    latent = {"samples": torch.randn(1, 16, 3, 8, 8)}
    (plain,) = comfyui_nodes.VAEDecode().decode(vae, latent)
    assert plain.shape == (9, 64, 64, 3)
    (tiled,) = comfyui_nodes.VAEDecodeTiled().decode(vae, latent, 512, 64, 64, 8)
    assert tiled.shape == plain.shape


def test_released_size_is_inferred():
    with torch.device("meta"):
        released = AutoencoderKLCogVideoX(
            block_out_channels=(128, 256, 256, 512), layers_per_block=3, latent_channels=16
        )
        ours = CogVideoXVAE(**infer_vae_config({k: v.shape for k, v in released.state_dict().items()}))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in released.state_dict().items()}
    arguments = json.loads(json.dumps(dict(released.config)))
    assert arguments["norm_num_groups"] == ours.config.norm_num_groups == 32
