"""The forward process against the scheduler that the reference trains with."""

import pytest
import torch
from consisid_pack.consisid_core.training.diffusion import add_noise, denoised, velocity
from diffusers import CogVideoXDPMScheduler
from helpers.oracle import SCHEDULER

TIMESTEPS = torch.tensor([0, 1, 400, 998, 999])


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(len(TIMESTEPS), 3, 2, 4, 4, generator=generator) for _ in range(2))


def test_equals_the_scheduler(pictures):
    latents, noise = pictures
    scheduler = CogVideoXDPMScheduler(**SCHEDULER)
    noisy = add_noise(latents, noise, TIMESTEPS)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, TIMESTEPS), rtol=1e-6, atol=1e-6)
    v = velocity(latents, noise, TIMESTEPS)
    torch.testing.assert_close(v, scheduler.get_velocity(latents, noise, TIMESTEPS), rtol=1e-6, atol=1e-6)
    # The reference turns a velocity into x_0 by the same function, with the noisy latents in place of the noise.
    torch.testing.assert_close(
        denoised(noisy, v, TIMESTEPS), scheduler.get_velocity(v, noisy, TIMESTEPS), rtol=1e-6, atol=1e-6
    )


def test_the_velocity_leads_back(pictures):
    latents, noise = pictures
    found = denoised(add_noise(latents, noise, TIMESTEPS), velocity(latents, noise, TIMESTEPS), TIMESTEPS)
    torch.testing.assert_close(found, latents, rtol=1e-5, atol=1e-5)


def test_the_last_timestep_has_no_signal(pictures):
    latents, noise = pictures
    last = torch.full((len(latents),), 999)
    assert torch.equal(add_noise(latents, noise, last), noise)
    assert torch.equal(velocity(latents, noise, last), -latents)
