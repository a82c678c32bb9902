"""The VAE inside ComfyUI against diffusers, its tiles, and what it says it takes of memory."""

import functools
import logging
from contextlib import contextmanager

import comfy.model_management
import comfy.sd
import pytest
import torch
from consisid_pack.consisid_core.comfyui.vae import (
    CHUNKS_HELD,
    LARGEST_CHUNK,
    chunk_values,
    decode_memory,
    encode_memory,
)
from consisid_pack.consisid_core.dev.memory_count import MemoryCounter, vae_peak
from consisid_pack.consisid_core.model.vae import CHUNK_VALUES, CogVideoXVAE, Pass
from helpers.oracle import build_reference_vae

import nodes as comfyui_nodes

TILE_ERROR = 0.3
ROUNDING = 1e-5  # Pixels and latents are around 1; convolution kernels sum in an order that depends on the size.


@pytest.fixture(scope="module")
def vae(run_node):
    (vae,) = run_node("ConsisIDVAELoader", vae_name="consisid_demo/diffusion_pytorch_model.safetensors")
    assert isinstance(vae, comfy.sd.VAE)
    return vae


@pytest.fixture(scope="module")
def reference(models_dir):
    return build_reference_vae(models_dir)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 5])
def test_encode_equals_diffusers(vae, reference, frames):
    pixels = torch.rand(frames, 32, 48, 3)
    expected = reference.encode((pixels * 2 - 1).permute(3, 0, 1, 2)[None]).latent_dist.mode()
    torch.testing.assert_close(vae.encode(pixels), expected, rtol=0, atol=ROUNDING)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_decode_equals_diffusers(vae, reference, frames):
    latents = torch.randn(1, 16, frames, 4, 6)
    expected = reference.decode(latents).sample
    actual = vae.decode(latents)
    assert actual.shape == (1, frames * 4 - 3, 32, 48, 3)
    torch.testing.assert_close(actual, ((expected + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1), rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_even_latent_frames_keep_the_last_frames_of_the_reference(vae, reference):
    latents = torch.randn(1, 16, 4, 4, 6)
    expected = ((reference.decode(latents).sample + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1)
    actual = vae.decode(latents)
    assert expected.shape[1] == 16 and actual.shape[1] == 13
    torch.testing.assert_close(actual, expected[:, 3:], rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_tiled_decode_has_the_size_of_a_plain_one(vae):
    latents = torch.randn(1, 16, 5, 8, 9)
    plain = vae.decode(latents)
    tiled = vae.decode_tiled(latents, tile_x=8, tile_y=8, overlap=2, tile_t=3, overlap_t=1)
    assert tiled.shape == plain.shape
    one_tile = vae.decode_tiled(latents, tile_x=64, tile_y=64, overlap=8)
    torch.testing.assert_close(one_tile, plain, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_stock_decode_nodes(vae):
    latent = {"samples": torch.randn(1, 16, 3, 8, 8)}
    (plain,) = comfyui_nodes.VAEDecode().decode(vae, latent)
    assert plain.shape == (9, 64, 64, 3)
    (tiled,) = comfyui_nodes.VAEDecodeTiled().decode(vae, latent, 512, 64, 64, 8)
    assert tiled.shape == plain.shape


@functools.cache
def released_peak(method, shape):
    """Bytes counted for the released net in bf16."""
    with torch.device("meta"):
        net = CogVideoXVAE().to(torch.bfloat16)
    return vae_peak(net, method, shape)


@pytest.mark.parametrize("size", [(13, 60, 90), (1, 60, 90), (13, 32, 32)])
def test_decode_estimate_covers_the_counted_peak(size):
    estimate = decode_memory((1, 16, *size), torch.bfloat16)
    counted = released_peak("decode", (1, 16, *size))
    assert counted <= estimate <= 1.3 * counted, (counted / 2**30, estimate / 2**30)


@pytest.mark.parametrize("size", [(49, 480, 720), (1, 480, 720), (13, 256, 256)])
def test_encode_estimate_covers_the_counted_peak(size):
    estimate = encode_memory((1, 3, *size), torch.bfloat16)
    counted = released_peak("encode", (1, 3, *size))
    assert counted <= estimate <= 1.3 * counted, (counted / 2**30, estimate / 2**30)


def test_a_whole_video_takes_less_than_five_gib_to_decode():
    assert released_peak("decode", (1, 16, 13, 60, 90)) < 5 * 2**30


@pytest.mark.parametrize("gib", [0, 1, 6, 12, 70])
def test_chunks_fill_half_of_what_is_free(monkeypatch, gib):
    latents = torch.empty(1, 16, 13, 60, 90, device="meta", dtype=torch.bfloat16)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: gib * 2**30)
    chunk, needed = chunk_values(latents, decode_memory), decode_memory(latents.shape, latents.dtype)
    assert CHUNK_VALUES <= chunk <= LARGEST_CHUNK
    added = (chunk - CHUNK_VALUES) * CHUNKS_HELD * 2
    if gib * 2**30 <= needed:
        assert chunk == CHUNK_VALUES
    else:
        assert added == pytest.approx((gib * 2**30 - needed) / 2, rel=1e-3) or chunk == LARGEST_CHUNK
        with torch.device("meta"):
            net = CogVideoXVAE().to(torch.bfloat16)
        with MemoryCounter() as counted, torch.inference_mode():
            net.decode(latents, Pass(chunk))
        assert counted.peak <= needed + added


@torch.inference_mode()
def test_the_loaded_vae_asks_what_is_free(vae, monkeypatch):
    free, plain = [], comfy.model_management.get_free_memory
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args: free.append(0) or plain(*args))
    latents = torch.randn(1, 16, 2, 4, 4)
    vae.first_stage_model.decode(latents)
    vae.first_stage_model.encode(torch.zeros(1, 3, 5, 32, 32))
    assert len(free) == 2


@contextmanager
def out_of_memory_above(net, method, frame_values):
    """The net's method fails as an accelerator does for frames of more values, height times width."""
    plain, calls = getattr(net, method), []

    def limited(x):
        calls.append(tuple(x.shape))
        if x.shape[-2] * x.shape[-1] > frame_values:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return plain(x)

    setattr(net, method, limited)
    try:
        yield calls
    finally:
        delattr(net, method)


@torch.inference_mode()
def test_decode_falls_back_to_tiles_when_memory_runs_out(vae, caplog):
    latents = torch.randn(1, 16, 2, 33, 33)  # Larger than one tile of 32 each way.
    expected = vae.decode(latents)
    with caplog.at_level(logging.WARNING), out_of_memory_above(vae.first_stage_model, "decode", 32 * 33) as calls:
        tiled = vae.decode(latents)
    assert "Ran out of memory when regular VAE decoding" in caplog.text
    assert calls[0] == latents.shape and len(calls) > 2 and all(call[-1] <= 32 for call in calls[1:])
    assert tiled.shape == expected.shape == (1, 5, 264, 264, 3)
    assert_alike(tiled, expected)


@torch.inference_mode()
def test_encode_falls_back_to_tiles_when_memory_runs_out(vae, caplog):
    pixels = torch.rand(5, 264, 264, 3)
    expected = vae.encode(pixels)
    with caplog.at_level(logging.WARNING), out_of_memory_above(vae.first_stage_model, "encode", 263 * 264) as calls:
        tiled = vae.encode(pixels)
    assert "Ran out of memory when regular VAE encoding" in caplog.text
    assert calls[0][-2:] == (264, 264) and len(calls) > 2 and all(call[-1] <= 256 for call in calls[1:])
    assert tiled.shape == expected.shape == (1, 16, 2, 33, 33)
    assert_alike(tiled, expected)


@torch.inference_mode()
def test_stock_tiled_encode_node(vae):
    pixels = torch.rand(9, 96, 128, 3)
    (plain,) = comfyui_nodes.VAEEncode().encode(vae, pixels)
    (tiled,) = comfyui_nodes.VAEEncodeTiled().encode(vae, pixels, 64, 32, 64, 8)
    assert tiled["samples"].shape == plain["samples"].shape == (1, 16, 3, 12, 16)
    assert_alike(tiled["samples"], plain["samples"])


def assert_alike(tiled, plain):
    """Group norms see one tile, not the frame, so tiles differ a little; a shifted or swapped tile differs wholly."""
    difference = (tiled - plain).pow(2).mean().sqrt() / plain.std()
    print(f"tiles against the whole: {difference:.3f} of the standard deviation")
    assert 0 < difference < TILE_ERROR
