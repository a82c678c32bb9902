import pytest
import torch
from consisid_pack.consisid_core.model.vae import CogVideoXVAE
from consisid_pack.consisid_core.training.small.autoencoder import beginning
from consisid_pack.consisid_core.training.small.vae_twin import Twin, inflated, planar


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    net = CogVideoXVAE((32, 32, 64, 64), 1)
    with torch.no_grad():
        for x in net.parameters():
            x.add_(0.05 * torch.randn_like(x))
    return net.requires_grad_(False)


def test_twin_equals_the_class(vae):
    twin = Twin(vae.state_dict())
    pixels, latents = torch.rand(2, 3, 17, 32, 32) * 2 - 1, torch.randn(2, 16, 5, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(twin.encode(pixels), vae.encode(pixels), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(twin.decode(latents), vae.decode(latents), atol=1e-4, rtol=1e-4)


def test_gradients_equal_the_class(vae):
    latents = torch.randn(1, 16, 5, 2, 2)
    gradients = []
    for decode in (Twin(vae.state_dict()).decode, vae.decode):
        x = latents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(decode(x).square().mean(), x)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_a_still_video_of_the_inflated_form_is_the_planar_picture(vae):
    flat = planar(vae.state_dict())
    full = inflated(flat, vae.state_dict())
    picture, latent = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(1, 16, 4, 4)
    video, latents = picture.unsqueeze(2).expand(-1, -1, 17, -1, -1), latent.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        still = Twin(full).encode(video)
        torch.testing.assert_close(
            still, Twin(flat).encode(picture).unsqueeze(2).expand_as(still), atol=1e-4, rtol=1e-4
        )
        shown = Twin(full).decode(latents)
        torch.testing.assert_close(shown, Twin(flat).decode(latent).unsqueeze(2).expand_as(shown), atol=1e-4, rtol=1e-4)


def test_the_class_loads_what_the_planar_form_learned(vae):
    full = inflated(planar(vae.state_dict()), vae.state_dict())
    CogVideoXVAE((32, 32, 64, 64), 1).load_state_dict(full)


def test_the_beginning_keeps_conditioned_norms_near_plain_ones():
    net = CogVideoXVAE((32, 32, 32, 32), 1)
    beginning(net.state_dict())
    norm = net.decoder.norm_out
    assert torch.equal(norm.conv_y.conv.bias, torch.ones(32)) and torch.equal(norm.conv_b.conv.bias, torch.zeros(32))
