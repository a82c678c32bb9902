"""A finished transformer out of its file, to make videos with outside ComfyUI."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint.fit import about, load_exactly
from ..checkpoint.nets import NetWeights, transformer_weights
from ..checkpoint.reading import read_checkpoint
from ..errors import ConsisIDError
from ..model.attention import Attention, scaled_dot_product_attention
from ..model.transformer import ConsisIDTransformer


def read_transformer(path: Path, if_quantised: str) -> NetWeights:
    """A transformer's weights, mapped from its file.

    Args:
        path: a file, or a folder of shards.
        if_quantised: why quantised weights do not serve, and what does: sentences.

    Raises:
        ConsisIDError: naming the file, if it is none, damaged or quantised.
    """
    checkpoint = read_checkpoint(path)
    with about(path, "Name ConsisID's transformer: a file, or a folder of shards"):
        weights = transformer_weights(checkpoint)
    if weights.quantization:
        raise ConsisIDError(f"{path} is quantised. {if_quantised}")
    return weights


def build_transformer(
    weights: NetWeights, device: torch.device, attention: Attention = scaled_dot_product_attention
) -> ConsisIDTransformer:
    """The net on a device, in bf16 on a card, else in float32."""
    net = ConsisIDTransformer(weights.config, device="meta", attention=attention)
    load_exactly(net, weights.state_dict)
    return net.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).requires_grad_(False).eval()
