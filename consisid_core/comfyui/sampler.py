"""ConsisID's samplers inside ComfyUI's sampling loop: noise, previews, masks and interruption are ComfyUI's."""

import comfy.model_management
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


class ScheduledGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance with a scale of its own for each sigma."""

    def set_schedule(self, sigmas, scales):
        self.sigmas, self.scales = sigmas, scales

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        self.set_cfg(self.scales[int((self.sigmas - timestep[0].cpu()).abs().argmin())])
        return super().predict_noise(x, timestep, model_options, seed)


def run_sampler(model, x, sigmas, extra_args=None, callback=None, disable=None, sampler="dpm", next_alphas=()):
    """k-diffusion style sampler function: x in ComfyUI's variance-exploding scale.

    next_alphas: the noise level that each step lands on; it is read as `sigmas[i + 1]` at the next.
    """
    # Another seed than that of the starting noise, which would else come again in the first step.
    next_noise = seeded_noise((extra_args["seed"] + 1) % 2**64, x) if sampler == "dpm" else None
    levels = [_alpha(sigma) for sigma in sigmas]
    previous = None
    for i in trange(len(sigmas) - 1, disable=disable):
        denoised = model(x, sigmas[i] * x.new_ones(x.shape[0]), **extra_args)
        if callback is not None:
            callback({"i": i, "denoised": denoised, "x": x, "sigma": sigmas[i], "sigma_hat": sigmas[i]})
        x = x * levels[i] ** 0.5
        if sampler == "dpm":
            x = dpm_step(x, denoised, previous, next_noise(), levels[i], next_alphas[i], levels[i - 1])
            previous = denoised
        else:
            x = ddim_step(x, denoised, levels[i], next_alphas[i])
        x = x / levels[i + 1] ** 0.5
    return x


def _alpha(sigma):
    """Cumulative product, 0..1, of a noise level of ComfyUI's."""
    return 1 / (1 + float(sigma) ** 2)


def sample(model, positive, negative, latent, seed, steps, cfg, sampler, guidance, denoise):
    """Denoise a LATENT by one of ConsisID's samplers. Returns a new LATENT; previews and progress as in KSampler.

    denoise below 1 runs the last `steps` of a schedule of steps / denoise. Raises ConsisIDError if that schedule has
    more than 1000 steps, MODEL is not ConsisID, or identity, text or latent do not fit it.
    """
    require_consisid(model)
    total = int(steps / denoise) if denoise > 0 else 0
    if total == 0:
        return latent
    if total > NUM_TRAIN_TIMESTEPS:
        raise ConsisIDError(
            f"{steps} steps at denoise {denoise} are the end of {total} steps, but the model knows "
            f"{NUM_TRAIN_TIMESTEPS} timesteps only. Lower steps or raise denoise."
        )
    table = model.get_model_object("model_sampling").sigmas.cpu()
    sigmas = torch.cat((table[trailing_timesteps(total)], table.new_zeros(1)))[-steps - 1 :]
    next_alphas = [1.0 if t < 0 else _alpha(table[t]) for t in target_timesteps(total)][-steps:]

    guider = ScheduledGuider(model)
    guider.set_conds(positive, negative)
    guider.set_schedule(sigmas[:-1], guidance_scales(guidance, cfg, total)[-steps:])
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    preview = latent_preview.prepare_callback(model, steps)
    with count_steps(steps) as count:

        def callback(step, x0, x, total_steps):
            preview(step, x0, x, total_steps)
            count(step + 1)

        denoised = guider.sample(
            comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
            samples,
            comfy.samplers.KSAMPLER(run_sampler, {"sampler": sampler, "next_alphas": next_alphas}),
            sigmas,
            denoise_mask=latent.get("noise_mask"),
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
    return {**latent, "samples": denoised.to(comfy.model_management.intermediate_device())}
