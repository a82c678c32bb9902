"""The VAE net against diffusers."""

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.net_config import infer_vae_config
from consisid_pack.consisid_core.model import convolution
from consisid_pack.consisid_core.model import vae as vae_module
from consisid_pack.consisid_core.model.vae import CogVideoXVAE
from diffusers import AutoencoderKLCogVideoX
from helpers.oracle import build_reference_vae, relative_error

ROUNDING = 1e-5  # Pixels and latents are around 1; convolution kernels sum in an order that depends on the size.


@pytest.fixture(scope="module")
def reference(models_dir):
    return build_reference_vae(models_dir)


@pytest.fixture(scope="module")
def net(reference):
    state_dict = reference.state_dict()
    net = CogVideoXVAE(**infer_vae_config({name: tensor.shape for name, tensor in state_dict.items()}))
    net.load_state_dict(state_dict)
    return net.eval()


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_decode_equals_diffusers(net, reference, frames):
    latents = torch.randn(1, 16, frames, 4, 6)
    expected = reference.decode(latents).sample
    torch.testing.assert_close(net.decode(latents), expected, rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_strips_and_channel_groups_equal_diffusers(net, reference, monkeypatch):
    """At full size convolutions run over strips of rows and norms over channel groups: forced here at tiny size."""
    monkeypatch.setattr(vae_module, "CHUNK_VALUES", 2**17)
    latents, pixels = torch.randn(2, 16, 5, 12, 10), torch.rand(2, 3, 9, 96, 80) * 2 - 1
    torch.testing.assert_close(net.decode(latents), reference.decode(latents).sample, rtol=0, atol=ROUNDING)
    expected = reference.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(net.encode(pixels), expected, rtol=0, atol=ROUNDING)


@torch.inference_mode()
@pytest.mark.parametrize("chunk_values", [2**13, 2**16, 2**18, 2**30])
def test_chunks_of_any_size_give_the_same(net, chunk_values):
    """From strips of rows and single frames over a mixture to all frames at once."""
    latents, pixels = torch.randn(1, 16, 3, 4, 6), torch.rand(1, 3, 11, 32, 48) * 2 - 1
    for run, x in ((net.decode, latents), (net.encode, pixels)):
        torch.testing.assert_close(run(x, vae_module.Pass(chunk_values)), run(x), rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_a_chunk_that_holds_all_copies_nothing_but_windows(net, monkeypatch):
    """Every join of frames stands before a convolution, or joins the batches at the end: where convolutions are not
    rearranged, as on an accelerator."""
    monkeypatch.setattr(convolution, "ENOUGH_PLACES", float("inf"))
    causal = [layer for layer in net.decoder.modules() if isinstance(layer, vae_module.CausalConv)]
    convolutions = sum(layer.conv.kernel_size[0] == 3 for layer in causal)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        net.decode(torch.randn(1, 16, 2, 4, 4), vae_module.Pass(2**30))
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::cat"] == convolutions + 1
    assert "aten::stack" not in calls and "aten::copy_" in calls


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_float32_to_its_rounding(reference, dtype):
    net = CogVideoXVAE(**infer_vae_config({name: tensor.shape for name, tensor in reference.state_dict().items()}))
    net.load_state_dict(reference.state_dict())
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = net.decode(latents)
    error = relative_error(net.to(dtype).decode(latents.to(dtype)).float(), expected)
    assert error <= 40 * torch.finfo(dtype).eps, error


@torch.inference_mode()
def test_posterior_equals_diffusers(net, reference):
    pixels = torch.rand(2, 3, 9, 32, 48) * 2 - 1
    expected = reference.encode(pixels).latent_dist
    mean, deviation = net.posterior(pixels)
    torch.testing.assert_close(mean, expected.mean, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(deviation, expected.std, rtol=ROUNDING, atol=ROUNDING)
    assert torch.equal(mean, net.encode(pixels))


@pytest.mark.parametrize("chunk_values", [vae_module.CHUNK_VALUES, 2**13])
@pytest.mark.parametrize(("method", "shape"), [("encode", (1, 3, 9, 16, 16)), ("decode", (1, 16, 3, 4, 4))])
def test_gradients_equal_diffusers(net, reference, monkeypatch, method, shape, chunk_values):
    monkeypatch.setattr(vae_module, "CHUNK_VALUES", chunk_values)
    mine, theirs = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    actual, expected = getattr(net, method)(mine), getattr(reference, method)(theirs)
    expected = expected.latent_dist.mode() if method == "encode" else expected.sample
    weight = torch.randn_like(expected)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    assert relative_error(mine.grad, theirs.grad) <= ROUNDING


def test_released_size_is_inferred():
    with torch.device("meta"):
        released = AutoencoderKLCogVideoX()
        ours = CogVideoXVAE(**infer_vae_config({k: v.shape for k, v in released.state_dict().items()}))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in released.state_dict().items()}
