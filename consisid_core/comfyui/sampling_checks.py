"""What is said of the inputs of a sampling, by whatever sampler: prompts without identity, untrained sizes, and
halves of the identity that a net does not know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import comfy.context_windows
import comfy.model_base
import comfy.patcher_extension
import comfy.samplers
import torch


def warn_of_inputs(guider: comfy.samplers.CFGGuider, shape: Sequence[int]) -> None:
    """Log, at the start of a sampling, what of its inputs ConsisID was not made for.

    Args:
        guider: its prompts are looked at when they are evaluated, through its options, which are this sampling's alone.
        shape: of the latents, [B, 16, T, h, w].
    """
    _warn_of_untrained_size(guider, shape)
    _warn_of_untrained_halves(guider)
    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.CALC_COND_BATCH,
        "consisid",
        _IdentityCheck(guider.conds),
        guider.model_options,
        is_model_options=True,
    )


def video_size(latent_size: Sequence[int]) -> str:
    """Frames, height and width of latents in words, as those of the video."""
    frames, height, width = latent_size
    return f"{width * 8}x{height * 8}, {frames * 4 - 3} frames"


def _warn_of_untrained_size(guider, shape):
    config = guider.model_patcher.model.config
    trained = config.sample_frames, config.sample_height, config.sample_width
    size, windows = list(shape), guider.model_options.get("context_handler")
    in_windows = ""
    if (
        isinstance(windows, comfy.context_windows.IndexListContextHandler)
        and size[windows.dim] > windows.context_length
    ):
        # With the causal fix of newer ComfyUI all windows but the first have a frame more, from before them.
        size[windows.dim] = windows.context_length + getattr(windows, "causal_window_fix", False)
        in_windows = "in windows of "
    if tuple(size[2:]) != trained:
        logging.getLogger("consisid").warning(
            "Sampling %s%s; the model was trained at %s only, other sizes may cost likeness and quality.",
            in_windows, video_size(size[2:]), video_size(trained),
        )  # fmt: skip


def _warn_of_untrained_halves(guider):
    """Say what of the identity the net leaves aside, by itself or by the range of blocks, and which key points it
    misses."""
    config, warn = guider.model_patcher.model.config, logging.getLogger("consisid").warning
    conds = [cond for prompt in guider.conds.values() for cond in prompt]
    images = [cond["concat_latent_image"] for cond in conds if cond.get("concat_latent_image") is not None]
    if images and not config.low_frequency:
        warn("MODEL was trained without the low-frequency half: GLOBAL_ID gives the size of the video only.")
    elif config.keypoints and any(image[:, :, 0].any() and not image[:, :, 1:2].any() for image in images):
        warn(
            "MODEL was trained with key points, but GLOBAL_ID has none, which may cost likeness. Switch keypoints on "
            "in the ConsisID Global ID Extractor."
        )
    if not config.high_frequency and any(cond.get("identity_tokens") is not None for cond in conds):
        warn("MODEL was trained without the high-frequency half: LOCAL_ID is left aside.")
        return
    attending = range(0, config.num_layers, config.cross_attn_interval)
    for start, end in {cond["identity_blocks"] for cond in conds if "identity_blocks" in cond}:
        if not any(start <= block <= end for block in attending):
            warn(
                "No identity attention lies in blocks %d to %d, so LOCAL_ID is left aside: this MODEL attends it in "
                "blocks %d, %d, ... %d. Change start_block or end_block.",
                start, end, attending[0], attending.step, attending[-1],
            )  # fmt: skip


class _IdentityCheck:
    """Warns once a sampling, as CALC_COND_BATCH, of prompts without identity that are evaluated: at a guidance scale of
    1 ComfyUI leaves the negative one out."""

    def __init__(self, conds: Mapping[str, list[dict]]):
        self.messages = _prompts_without_identity(conds)
        self.said = set()

    def __call__(
        self,
        calculate: Callable,
        model: comfy.model_base.BaseModel,
        conds: Sequence[list[dict] | None],
        *args,
        **kwargs,
    ) -> list[torch.Tensor]:
        for cond in (cond for prompt in conds for cond in prompt or ()):
            message = self.messages.get(cond["uuid"])
            if message and message not in self.said:
                self.said.add(message)
                logging.getLogger("consisid").warning(message)
        return calculate(model, conds, *args, **kwargs)


def _prompts_without_identity(conds):
    """What to say of each conditioning that has no face latents, by its id."""
    lacking = {
        name: [cond["uuid"] for cond in prompt if "concat_latent_image" not in cond] for name, prompt in conds.items()
    }
    if all(len(lacking[name]) == len(prompt) for name, prompt in conds.items()):
        message = (
            "No prompt carries an identity: the video shows nobody in particular. Wire the positive and negative "
            "outputs of ConsisID Conditioning into the sampler."
        )
        return {uuid: message for uuids in lacking.values() for uuid in uuids}
    messages = {}
    for name, uuids in lacking.items():
        part = "carries" if len(uuids) == len(conds[name]) else f"has {len(uuids)} of {len(conds[name])} prompts with"
        output = "negative" if name == "negative" else "positive"
        message = (
            f"{name} {part} no identity, though other prompts of this sampler have one: guidance multiplies the face's "
            f"latents and burns the picture. Wire the {output} output of ConsisID Conditioning into {name}; combine or "
            "average prompts before that node."
        )
        messages |= dict.fromkeys(uuids, message)
    return messages
