"""What each half of an identity changes in the video, at which step and which frequency: the paper's claim that the
global half gives the low and the local half the high frequencies, measured inside the model."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_patcher
import numpy as np
import torch
from comfy.samplers import calc_cond_batch

from ..errors import ConsisIDError
from ..evaluation.spectrum import SpectrumAccumulator, ring_frequencies
from .sampler import SamplerSettings, sample
from .transformer import require_consisid


@dataclass(frozen=True)
class IdentityEffect:
    """Spectra over the S steps of one run, all float64, of latents as the model scales them, without a window.

    A half's power is that of the prediction with both halves minus the prediction without this half. It is exactly 0
    where the half has no say: not connected, at strength 0, or at a step outside its range.
    """

    sigmas: np.ndarray
    """[S] noise levels, falling, in ComfyUI's scale (ratio of noise to picture)."""
    timesteps: np.ndarray
    """[S] the same levels as the model counts them, 999 (noise only) to 0."""
    frequency: np.ndarray
    """[K] cycles per latent pixel, 0 to at most 0.5; one latent pixel is 8 pixels of the video."""
    global_power: np.ndarray
    """[S, K] effect of the global half: mean power of each ring, over latent frames, channels and videos."""
    local_power: np.ndarray
    """[S, K] effect of the local half."""
    prediction_power: np.ndarray
    """[S, K] the prediction with both halves itself, to see the others in relation to it."""


def sample_with_identity_effect(
    model: comfy.model_patcher.ModelPatcher, positive: list, negative: list, latent: dict, settings: SamplerSettings
) -> tuple[dict, IdentityEffect]:
    """Sample as `sampler.sample` does, to the bit, and measure what each half of the identity does at each step.

    Predictions are the model's clean videos for the positive prompt, before guidance. Each step costs one
    more evaluation of the positive prompt for each half that acts in it: at most twice the time, or three times at cfg
    1. In half precision the effect has a floor of rounding errors, those of the prediction itself. Patches on MODEL
    that carry state from one evaluation to the next, such as step caches, take these for steps: remove them.

    Args:
        model, positive, negative, latent, settings: as of `sampler.sample`.

    Returns:
        (LATENT, IdentityEffect).

    Raises:
        ConsisIDError: MODEL is not ConsisID or positive has no identity, and what `sample` raises.
    """
    require_consisid(model)
    if not any("concat_latent_image" in options or "identity_tokens" in options for _, options in positive):
        raise ConsisIDError(
            "positive carries no identity, so there is no effect to measure. Connect ConsisID Conditioning's positive "
            "and negative."
        )
    sigmas, rows = [], []

    def measure(args):
        full = args["cond_denoised"]
        halves = [_without_global(args["cond"]), _without_local(args["cond"], float(args["sigma"][0]))]
        rest = [args[name] for name in ("input", "sigma", "model_options")]
        differences = [
            torch.zeros_like(full) if conds is None else full - calc_cond_batch(args["model"], [conds], *rest)[0]
            for conds in halves
        ]
        sigmas.append(float(args["sigma"][0]))
        rows.append([_power(latents) for latents in (*differences, full)])
        return args["denoised"]

    model = model.clone()
    model.set_model_sampler_post_cfg_function(measure)
    out = sample(model, positive, negative, latent, settings)
    frequency = ring_frequencies(*out["samples"].shape[-2:])
    sigmas = np.array(sigmas)
    sampling = model.get_model_object("model_sampling")
    timesteps = np.array([float(sampling.timestep(torch.tensor(sigma))) for sigma in sigmas])
    global_power, local_power, prediction_power = np.array(rows).reshape(-1, 3, len(frequency)).swapaxes(0, 1)
    return out, IdentityEffect(sigmas, timesteps, frequency, global_power, local_power, prediction_power)


def _without_global(conds):
    """The conditioning with empty image latents, or None if they are empty already."""
    images = [cond["model_conds"]["c_concat"] for cond in conds]
    if not any(image.cond.any() for image in images):
        return None
    return [
        _with_model_conds(cond, {**cond["model_conds"], "c_concat": type(image)(torch.zeros_like(image.cond))})
        for cond, image in zip(conds, images, strict=True)
    ]


def _without_local(conds, sigma):
    """The conditioning without identity tokens, or None if they do not act at this noise level."""
    if not any(_tokens_act(cond["model_conds"], sigma) for cond in conds):
        return None
    return [
        _with_model_conds(cond, {k: v for k, v in cond["model_conds"].items() if not k.startswith("identity_")})
        for cond in conds
    ]


def _tokens_act(model_conds, sigma):
    if "identity_tokens" not in model_conds:
        return False
    if "identity_sigmas" not in model_conds:  # The whole run.
        return True
    start, end = model_conds["identity_sigmas"].cond
    return end <= sigma <= start


def _with_model_conds(cond, model_conds):
    return {**cond, "model_conds": model_conds}


def _power(latents):
    """[K] power of the rings of latents [B, C, T, H, W]."""
    accumulator = SpectrumAccumulator(window=False)
    for channel in latents.flatten(0, 1):
        accumulator.add_planes(channel)
    return accumulator.result().power
