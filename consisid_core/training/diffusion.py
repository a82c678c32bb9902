"""The forward process that training runs backwards: noisy latents, and the velocity between latents and noise.

a being the cumulative alpha of a timestep, x_t = sqrt(a) x_0 + sqrt(1 - a) noise, v = sqrt(a) noise - sqrt(1 - a) x_0.
"""

from __future__ import annotations

import torch

from ..model.schedule import alphas_cumprod

LATENT_SCALE = 0.7
"""Factor on the VAE's latents (its `scaling_factor`)."""


def add_noise(latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """x_t. latents and noise: [B, ...]; timestep: [B] 0..999. At 999 nothing but noise is left."""
    signal, spread = _roots(timestep, latents)
    return signal * latents + spread * noise


def velocity(latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """v, what the net predicts. Shapes as in `add_noise`."""
    signal, spread = _roots(timestep, latents)
    return signal * noise - spread * latents


def denoised(noisy: torch.Tensor, velocity: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """x_0 of x_t and v: sqrt(a) x_t - sqrt(1 - a) v. Shapes as in `add_noise`."""
    signal, spread = _roots(timestep, noisy)
    return signal * noisy - spread * velocity


def _roots(timestep, like):
    """sqrt(a) and sqrt(1 - a), each [B, 1, ...]."""
    alpha = alphas_cumprod().to(like.device)[timestep].unflatten(0, (-1, *[1] * (like.ndim - 1)))
    return alpha.sqrt(), (1 - alpha).sqrt()
