"""The reference's samplers and guidance, and a cache of steps for any sampler. Stock samplers work as well."""

from __future__ import annotations

from comfy_api.latest import io

from ..consisid_core.comfyui.compat import schema
from ..consisid_core.comfyui.notices import clears_notices
from ..consisid_core.comfyui.sampler import SamplerSettings, sample
from ..consisid_core.comfyui.step_cache import with_step_cache
from ..consisid_core.model.schedule import GUIDANCES, SAMPLERS

CATEGORY = "ConsisID/sampling"


class ConsisIDSampler(io.ComfyNode):
    """Noise -> LATENT by the reference's schedule and samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDSampler",
            display_name="ConsisID Sampler",
            search_aliases=["text to video", "identity video", "face video", "CogVideoX sampler"],
            category=CATEGORY,
            description="Denoises with ConsisID's own schedule: zero terminal SNR, trailing timesteps, any step count.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input(
                    "latent_image", tooltip="From ConsisID Conditioning, which makes it in the size of the identity."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed and settings give the same video.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps. 50 as in the paper; 25 is close, more than 50 does not help.",
                ),
                io.Float.Input(
                    "cfg",
                    default=6.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How strongly the prompt is followed. 6 as in the paper; higher saturates colours, 1 "
                    "halves the time and ignores the negative prompt.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(SAMPLERS),
                    default="dpm",
                    tooltip="dpm: stochastic, second order, the reference's choice. ddim: deterministic, to compare.",
                ),
                io.Combo.Input(
                    "guidance",
                    options=list(GUIDANCES),
                    default="constant",
                    tooltip="constant: cfg at every step. dynamic: rises from 1 to 1 + cfg, more natural motion early "
                    "on. dynamic_legacy: diffusers' use_dynamic_cfg as coded, which jumps; for comparisons only.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 makes a new video. Less keeps that much less of the schedule, to rework a video that is "
                    "in latent_image.",
                ),
                io.Float.Input(
                    "guidance_start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="From which part of sampling there is guidance. Steps before it take half the time and "
                    "ignore the negative prompt, and what they compose follows the prompt less.",
                ),
                io.Float.Input(
                    "guidance_end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Until which part of sampling there is guidance. Steps after it take half the time and "
                    "ignore the negative prompt. Try 0.8: the last steps need guidance least.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        model: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        guidance: str,
        denoise: float,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
    ) -> io.NodeOutput:
        settings = SamplerSettings(seed, steps, cfg, sampler, guidance, denoise, guidance_start, guidance_end)
        return io.NodeOutput(sample(model, positive, negative, latent_image, settings))


class ConsisIDStepCache(io.ComfyNode):
    """MODEL -> MODEL that skips its blocks at steps where little changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDStepCache",
            display_name="ConsisID Step Cache",
            search_aliases=["TeaCache", "speed up", "faster sampling", "EasyCache"],
            category=CATEGORY,
            description="Skips steps in which the video hardly changes, by TeaCache. For any sampler, which then says "
            "how many forwards of the model it saved.",
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much may change before a step is computed again. 0 is off; higher is faster and "
                    "loses detail. The authors give 70, 53 and 41 s for 0.1, 0.15 and 0.2 on an H100, and 110 s "
                    "without.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="From which part of sampling steps may be skipped. Start later if composition or motion "
                    "suffers.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until which part of sampling steps may be skipped. End earlier if fine detail suffers.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @clears_notices
    def execute(cls, model: io.Model.Type, threshold: float, start_percent: float, end_percent: float) -> io.NodeOutput:
        return io.NodeOutput(with_step_cache(model, threshold, start_percent, end_percent))


NODES = [ConsisIDSampler, ConsisIDStepCache]
