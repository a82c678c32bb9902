"""Videos from a net in training, without ComfyUI: the reference's DPM steps with classifier-free guidance."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..errors import ConsisIDError
from ..model.schedule import alphas_cumprod, dpm_step, seeded_noise, target_timesteps, trailing_timesteps
from ..model.vae import CogVideoXVAE
from .diffusion import LATENT_SCALE, denoised

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents [1, 32, T, h, w], timestep [1], text [1, L, D]) -> velocity [1, 16, T, h, w], for one person."""

Branches = Callable[[Callable[[torch.Tensor], torch.Tensor], Sequence[torch.Tensor]], list[torch.Tensor]]
"""(what predicts for a text, one or two texts) -> the prediction for each."""

_MOST_STEPS = 1000
_LEAST_ALPHA = 1e-30
"""Stands for the 0 of the first step where its logarithm is taken."""


@dataclass(frozen=True)
class Sampling:
    """What decides about a video besides net, person and prompt."""

    steps: int = 50
    guidance: float = 6.0
    seed: int = 42


def add_sampling_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, least_steps: int = 1, of_steps: str = ""
) -> None:
    """Let a command take `--steps`, `--guidance` and `--seed`.

    Args:
        least_steps: as of `chosen_sampling`.
        of_steps: more to say of the steps.
    """
    usual = Sampling()
    steps = f"of the sampler, {least_steps} to {_MOST_STEPS}{of_steps} (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=usual.steps, metavar="N", help=steps)
    guidance = "1 is none (default: %(default)s)"
    parser.add_argument("--guidance", type=float, default=usual.guidance, metavar="X", help=guidance)
    parser.add_argument("--seed", type=int, default=usual.seed, metavar="N", help="of the noise (default: %(default)s)")


def chosen_sampling(options: argparse.Namespace, least_steps: int = 1) -> Sampling:
    """What was chosen.

    Raises:
        ConsisIDError: there are too few or too many steps.
    """
    if not least_steps <= options.steps <= _MOST_STEPS:
        raise ConsisIDError(f"--steps must be {least_steps} to {_MOST_STEPS}, not {options.steps}.")
    return Sampling(options.steps, options.guidance, options.seed)


def one_after_the_other(predict: Callable[[torch.Tensor], torch.Tensor], texts: Sequence[torch.Tensor]) -> list:
    """The Branches of one device, which take half the memory of both in one batch."""
    return [predict(text) for text in texts]


@torch.no_grad()
def sample_latents(
    predict: Predict,
    text: torch.Tensor,
    empty_text: torch.Tensor,
    image_latents: torch.Tensor,
    settings: Sampling,
    on_step: Callable[[], None] = lambda: None,
    branches: Branches = one_after_the_other,
) -> torch.Tensor:
    """Denoise one video, both branches with the same identity, as the reference does (`pipeline_consisid.py:880`).

    Args:
        predict: the net.
        text: [L, D] of the prompt; empty_text: of no prompt, or of the negative one.
        image_latents: [16, T, h, w] scaled, on the device that computes.
        settings: of the video.
        on_step: called after each step; it may raise.
        branches: evaluates the net for the texts of a step: both, or the prompt's alone if there is no guidance.

    Returns:
        float32 [16, T, h, w], scaled.
    """
    image = image_latents[None].float()
    texts = [part[None].to(image) for part in (text, empty_text)][: 1 if settings.guidance == 1 else 2]
    alphas, timesteps, targets = alphas_cumprod(), trailing_timesteps(settings.steps), target_timesteps(settings.steps)
    x = seeded_noise(settings.seed, image)()
    next_noise = seeded_noise(settings.seed + 1, image)
    previous = None
    for i, (timestep, target) in enumerate(zip(timesteps, targets, strict=True)):
        at = torch.tensor([timestep], device=image.device)
        inputs = torch.cat((x, image), dim=1)
        velocity, *without = branches(lambda text: predict(inputs, at, text).float(), texts)  # noqa: B023
        if without:
            velocity = without[0] + settings.guidance * (velocity - without[0])
        clean = denoised(x, velocity, at)
        alpha, before = (max(float(alphas[t]), _LEAST_ALPHA) for t in (timestep, timesteps[i - 1]))
        after = 1.0 if target < 0 else float(alphas[target])
        x = dpm_step(x, clean, previous, next_noise(), alpha, after, before)
        previous = clean
        on_step()
    return x[0]


@torch.no_grad()
def decode(vae: CogVideoXVAE, latents: torch.Tensor) -> torch.Tensor:
    """Pixels of a video.

    Args:
        vae: on the device that computes.
        latents: [16, T, h, w], scaled.

    Returns:
        uint8 [4T-3, 8h, 8w, 3] on the CPU.
    """
    weight = next(vae.parameters())
    return to_pixels(vae.decode((latents[None] / LATENT_SCALE).to(weight))[0])


def to_pixels(video: torch.Tensor) -> torch.Tensor:
    """[3, T, H, W] in -1..1, as a VAE gives it -> uint8 [T, H, W, 3] on the CPU."""
    video = video.float()
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu()
