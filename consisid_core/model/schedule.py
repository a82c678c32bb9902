"""The mathematics of ConsisID's sampling: trailing timesteps, the two reference samplers' steps, guidance over time.

Numbers and tensors only: `comfyui/sampler.py` runs them in ComfyUI's sampling loop, for the node in `nodes/sampler.py`.

Steps work on variance-preserving samples x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) noise, with alpha the cumulative
product; sigmas of ComfyUI relate by alpha = 1 / (1 + sigma^2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

SAMPLERS = ("dpm", "ddim")
GUIDANCES = ("constant", "dynamic", "dynamic_legacy")
NUM_TRAIN_TIMESTEPS = 1000


@functools.cache
def alphas_cumprod() -> torch.Tensor:
    """Cumulative alpha of each timestep, float32 [1000], exactly 0 at the last (zero-terminal SNR).

    Betas rise from 0.00085 to 0.012, linearly in their square roots; the square roots of the products are then shifted
    and stretched so that the last is 0 and the first stays (`scheduling_ddim_cogvideox.py:95`, `:233`).
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    return (roots**2).float()


def trailing_timesteps(steps: int) -> list[int]:
    """Timesteps 999 ... evenly spaced down to 0, any count from 1 to 1000 (diffusers `timestep_spacing="trailing"`)."""
    spaced = np.arange(NUM_TRAIN_TIMESTEPS, 0, -NUM_TRAIN_TIMESTEPS / steps)[:steps]
    return (np.round(spaced).astype(int) - 1).tolist()


def target_timesteps(steps: int) -> list[int]:
    """Where each step lands, -1 standing for the clean sample.

    The reference subtracts the whole quotient 1000 // steps, which is the next timestep only where the count divides
    1000 (`scheduling_dpm_cogvideox.py:381`, `scheduling_ddim_cogvideox.py:354`); weights do not care, parity does.
    """
    return [max(t - NUM_TRAIN_TIMESTEPS // steps, -1) for t in trailing_timesteps(steps)]


def guidance_scales(guidance: str, cfg: float, steps: int, start: float = 0.0, end: float = 1.0) -> list[float]:
    """Guidance scale of each step. At 1 the negative prompt need not be evaluated.

    Args:
        guidance: "constant": cfg. "dynamic": rises from 1 towards 1 + cfg along
            1 + cfg (1 - cos(pi (i / steps)^5)) / 2 for step i. "dynamic_legacy": the same curve with the timestep in
            place of steps - i, as diffusers' `use_dynamic_cfg` computes it (`pipeline_consisid.py:919`); it jumps about
            and is there for parity alone.
        start, end: fractions of the timesteps, 0 the noisiest, between which there is guidance; outside it is 1.
    """
    timesteps = trailing_timesteps(steps)
    if guidance == "constant":
        scales = [cfg] * steps
    else:
        progress = [i / steps for i in range(steps)]
        if guidance == "dynamic_legacy":
            progress = [(steps - t) / steps for t in timesteps]
        scales = [1 + cfg * (1 - math.cos(math.pi * p**5)) / 2 for p in progress]
    passed = [1 - t / (NUM_TRAIN_TIMESTEPS - 1) for t in timesteps]
    return [scale if start <= part <= end else 1.0 for scale, part in zip(scales, passed, strict=True)]


def ddim_step(x: torch.Tensor, denoised: torch.Tensor, alpha: float, alpha_next: float) -> torch.Tensor:
    """Deterministic step from noise level alpha to alpha_next (`CogVideoXDDIMScheduler.step`, eta 0)."""
    ratio = ((1 - alpha_next) / (1 - alpha)) ** 0.5
    return ratio * x + (alpha_next**0.5 - alpha**0.5 * ratio) * denoised


def dpm_step(
    x: torch.Tensor,
    denoised: torch.Tensor,
    previous: torch.Tensor | None,
    noise: torch.Tensor,
    alpha: float,
    alpha_next: float,
    alpha_previous: float,
) -> torch.Tensor:
    """Step of the stochastic two-step solver SDE-DPM-Solver++(2M) (`CogVideoXDPMScheduler.step`).

    All alphas are below 1 except that alpha_next may be 1 (the clean sample).

    Args:
        previous: the last step's denoised sample, or None at the first step; alpha_previous: its noise level.
        noise: standard normal, as large as x.
    """
    if alpha_next == 1:
        return denoised
    log_snr, log_snr_next = _half_log_snr(alpha), _half_log_snr(alpha_next)
    h = log_snr_next - log_snr
    if previous is not None:
        r = (log_snr - _half_log_snr(alpha_previous)) / h
        denoised = denoised + (denoised - previous) / (2 * r)
    decay = math.sqrt((1 - alpha_next) / (1 - alpha)) * math.exp(-h)
    fresh = math.sqrt((1 - alpha_next) * -math.expm1(-2 * h))
    return decay * x - math.expm1(-2 * h) * math.sqrt(alpha_next) * denoised + fresh * noise


def _half_log_snr(alpha):
    return 0.5 * math.log(alpha / (1 - alpha))


def seeded_noise(seed: int, like: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A function that yields standard normal tensors shaped as `like`, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator).to(like)
