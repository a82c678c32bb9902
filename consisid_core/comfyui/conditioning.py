"""How the two halves of an identity enter the conditioning, and how two local halves become one."""

from __future__ import annotations

import comfy.model_management
import node_helpers
import torch

from ..errors import ConsisIDError
from ..types import GlobalID, LocalID

ALL_BLOCKS = (0, 999)
"""More than any net has."""


def blend_local_ids(first: LocalID, second: LocalID, ratio: float) -> LocalID:
    """(1 - ratio) first + ratio second.

    Args:
        first, second: tokens of one shape.
        ratio: 0..1.

    Raises:
        ConsisIDError: for tokens of different shapes or a ratio outside 0..1.
    """
    if first.tokens.shape != second.tokens.shape:
        raise ConsisIDError(
            f"local_id_1 has tokens of shape {list(first.tokens.shape)}, local_id_2 of {list(second.tokens.shape)}: "
            "they were made with different models. Connect the same MODEL to both extractors."
        )
    if not 0 <= ratio <= 1:
        raise ConsisIDError(f"ratio {ratio} is outside 0..1; 0 is local_id_1 alone, 1 is local_id_2.")
    return LocalID(first.tokens * (1 - ratio) + second.tokens * ratio)


def condition(
    positive: list,
    negative: list,
    global_id: GlobalID,
    local_id: LocalID | None = None,
    global_strength: float = 1.0,
    local_strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    batch_size: int = 1,
    start_block: int = ALL_BLOCKS[0],
    end_block: int = ALL_BLOCKS[1],
) -> tuple[list, list, dict]:
    """Attach an identity to both prompts, as the reference does, and make the empty latent of its size.

    Args:
        positive, negative: CONDITIONING of the prompts.
        global_id: sets the size of the video, too.
        local_id: None for a video by the global half alone.
        global_strength: factor on the face latents.
        local_strength: factor on what the tokens add; 0 leaves them out.
        start_percent, end_percent: range of the local half, in fractions of sampling.
        batch_size: videos.
        start_block, end_block: first and last of the net's blocks in which the local half acts.

    Returns:
        (positive, negative, LATENT of zeros).

    Raises:
        ConsisIDError: a range ends before it starts.
    """
    if start_percent > end_percent:
        raise ConsisIDError(f"start_percent {start_percent} lies after end_percent {end_percent}; swap them.")
    if start_block > end_block:
        raise ConsisIDError(f"start_block {start_block} lies after end_block {end_block}; swap them.")
    values = {"concat_latent_image": global_id.latents * global_strength}
    if local_id is not None and local_strength != 0:
        values["identity_tokens"] = local_id.tokens
        values["identity_scale"] = local_strength
        values["identity_range"] = (start_percent, end_percent)
        if (start_block, end_block) != ALL_BLOCKS:
            values["identity_blocks"] = (start_block, end_block)
    latent = torch.zeros(
        (batch_size, *global_id.latents.shape[1:]), device=comfy.model_management.intermediate_device()
    )
    return (
        node_helpers.conditioning_set_values(positive, values),
        node_helpers.conditioning_set_values(negative, values),
        {"samples": latent},
    )
