"""ConsisID's samplers inside ComfyUI's sampling loop: noise, previews, masks and interruption are ComfyUI's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from tqdm.auto import trange

from ..errors import ConsisIDError
from ..model.schedule import (
    NUM_TRAIN_TIMESTEPS,
    ddim_step,
    dpm_step,
    guidance_scales,
    seeded_noise,
    target_timesteps,
    trailing_timesteps,
)
from .notices import count_steps
from .transformer import require_consisid


def run_sampler(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    sampler: str = "dpm",
    alphas: Sequence[float] = (),
    next_alphas: Sequence[float] = (),
) -> torch.Tensor:
    """k-diffusion style sampler function, without a wait for the device between its steps.

    Args:
        model: denoises x at a sigma.
        x: [B, C, T, H, W] in ComfyUI's variance-exploding scale.
        sigmas: [steps + 1] noise levels, on x's device.
        extra_args: ComfyUI's, "seed" among them.
        callback: called once a step, after the model.
        disable: the console's progress bar.
        sampler: one of SAMPLERS.
        alphas: the cumulative products, 0..1, that `sigmas` stand for; on the host, where the coefficients are taken.
        next_alphas: the noise level that each step lands on; it is read as `alphas[i + 1]` at the next.

    Returns:
        [B, C, T, H, W] the clean sample, or what noise the last step leaves.
    """
    # Another seed than that of the starting noise, which would else come again in the first step.
    next_noise = seeded_noise((extra_args["seed"] + 1) % 2**64, x) if sampler == "dpm" else None
    previous = None
    for i in trange(len(sigmas) - 1, disable=disable):
        denoised = model(x, sigmas[i] * x.new_ones(x.shape[0]), **extra_args)
        if callback is not None:
            callback({"i": i, "denoised": denoised, "x": x, "sigma": sigmas[i], "sigma_hat": sigmas[i]})
        x = x * alphas[i] ** 0.5
        if sampler == "dpm":
            x = dpm_step(x, denoised, previous, next_noise(), alphas[i], next_alphas[i], alphas[i - 1])
            previous = denoised
        else:
            x = ddim_step(x, denoised, alphas[i], next_alphas[i])
        x = x / alphas[i + 1] ** 0.5
    return x


def _alpha(sigma):
    """Cumulative product, 0..1, of a noise level of ComfyUI's."""
    return 1 / (1 + float(sigma) ** 2)


@dataclass(frozen=True)
class SamplerSettings:
    """What a user sets of a sampling run."""

    seed: int
    """Of the starting noise."""
    steps: int
    """So many are taken."""
    cfg: float
    """Guidance scale."""
    sampler: str
    """One of SAMPLERS."""
    guidance: str
    """One of GUIDANCES."""
    denoise: float = 1.0
    """0..1; below 1 the last `steps` of a schedule of steps / denoise are run."""
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    """Fractions of the whole schedule between which there is guidance; outside no negative prompt is evaluated."""


def sample(
    model: comfy.model_patcher.ModelPatcher, positive: list, negative: list, latent: dict, settings: SamplerSettings
) -> dict:
    """Denoise a LATENT by one of ConsisID's samplers, with previews and progress as in KSampler.

    Args:
        model: ConsisID.
        positive, negative: CONDITIONING of `conditioning.condition`.
        latent: LATENT, "samples" [B, 16, T, h, w] unscaled.
        settings: of the run.

    Returns:
        A new LATENT.

    Raises:
        ConsisIDError: the schedule has more than 1000 steps, guidance ends before it starts, MODEL is not ConsisID,
            identity, text or latent do not fit it, or the result is not finite.
    """
    require_consisid(model)
    start, end = settings.guidance_start, settings.guidance_end
    if start > end:
        raise ConsisIDError(f"guidance_start {start} lies after guidance_end {end}; swap them.")
    steps = settings.steps
    total = int(steps / settings.denoise) if settings.denoise > 0 else 0
    if total == 0:
        return latent
    if total > NUM_TRAIN_TIMESTEPS:
        raise ConsisIDError(
            f"{steps} steps at denoise {settings.denoise} are the end of {total} steps, but the model knows "
            f"{NUM_TRAIN_TIMESTEPS} timesteps only. Lower steps or raise denoise."
        )
    table = model.get_model_object("model_sampling").sigmas.cpu()
    sigmas = torch.cat((table[trailing_timesteps(total)], table.new_zeros(1)))[-steps - 1 :]  # On the host.
    alphas = [_alpha(sigma) for sigma in sigmas]
    next_alphas = [1.0 if t < 0 else _alpha(table[t]) for t in target_timesteps(total)][-steps:]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    scales = guidance_scales(settings.guidance, settings.cfg, total, start, end)[-steps:]
    guider.set_cfg(scales[0])
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    preview = latent_preview.prepare_callback(model, steps)
    with count_steps(steps) as count:

        def callback(step, x0, x, total_steps):
            preview(step, x0, x, total_steps)
            count(step + 1)
            guider.set_cfg(scales[min(step + 1, steps - 1)])  # For the next step.

        denoised = guider.sample(
            comfy.sample.prepare_noise(samples, settings.seed, latent.get("batch_index")),
            samples,
            comfy.samplers.KSAMPLER(
                run_sampler, {"sampler": settings.sampler, "alphas": alphas, "next_alphas": next_alphas}
            ),
            sigmas,
            denoise_mask=latent.get("noise_mask"),
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=settings.seed,
        )
    return {**latent, "samples": denoised.to(comfy.model_management.intermediate_device())}
