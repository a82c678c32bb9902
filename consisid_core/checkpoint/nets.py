"""ConsisID's own nets out of a checkpoint: the weights that are theirs, and the config that the shapes tell."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConsisIDError, WeightsError
from ..model.config import TransformerConfig
from .files import SAVED_CONFIG, VOCABULARY, parse_json
from .fit import check_names
from .net_config import diffusers_config, infer_t5_config, infer_transformer_config, infer_vae_config, t5_shapes
from .quantization import json_tensor, plain_shapes, take_quantization
from .reading import Checkpoint

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class NetWeights:
    """A state dict that fits a net, as it is stored."""

    state_dict: dict[str, torch.Tensor]
    """By the net's parameter names; of a quantised layer also its `.weight_scale` and the like."""
    config: TransformerConfig | dict
    """TransformerConfig; the VAE's constructor arguments; or ComfyUI's config of T5."""
    quantization: dict[str, dict]
    """Name of a quantised layer -> ComfyUI's settings for it; empty for plain weights."""


def identify(names: Collection[str]) -> str | None:
    """Which of the three nets has these parameter names: "transformer", "vae", "text_encoder" or None."""
    marks = {
        "transformer": "local_facial_extractor.proj_out",
        "vae": "decoder.mid_block.resnets.0.norm1.conv_y.conv.weight",
        "text_encoder": "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    }
    return next((net for net, mark in marks.items() if any(name.endswith(mark) for name in names)), None)


def transformer_weights(checkpoint: Checkpoint) -> NetWeights:
    """The ConsisID transformer in a checkpoint, whatever stands around it. Logs what else there is.

    Raises:
        WeightsError: it is none, incomplete, or quantised in an unknown way.
    """
    import torch

    from ..model.transformer import ConsisIDTransformer

    state_dict = _take_transformer(checkpoint)
    config = checkpoint.config
    if (saved := state_dict.pop(SAVED_CONFIG, None)) is not None:
        config = parse_json(bytes(saved.tolist()).decode(errors="replace"), f"The {SAVED_CONFIG} in {checkpoint.path}")
    quantization = take_quantization(state_dict)
    shapes = plain_shapes(state_dict, quantization)
    config = infer_transformer_config(shapes, config)
    with torch.device("meta"):
        check_names(shapes, {name: x.shape for name, x in ConsisIDTransformer(config).state_dict().items()})
    _check_dtypes(state_dict, quantization)
    return NetWeights(state_dict, config, quantization)


def vae_weights(checkpoint: Checkpoint) -> NetWeights:
    """The CogVideoX VAE in a checkpoint.

    Raises:
        WeightsError: it is none, or incomplete.
    """
    import torch

    from ..model.vae import CogVideoXVAE

    config = infer_vae_config(checkpoint.shapes)
    with torch.device("meta"):
        net = CogVideoXVAE(**config)
    check_names(checkpoint.shapes, {name: x.shape for name, x in net.state_dict().items()})
    return NetWeights(checkpoint.tensors, config, {})


def text_encoder_weights(checkpoint: Checkpoint) -> NetWeights:
    """The T5 v1.1 encoder in a checkpoint. Decoder and tokenizer, which some files carry, stay beside it, unused.

    Raises:
        WeightsError: it is another encoder, incomplete, or quantised in an unknown way.
    """
    state_dict = dict(checkpoint.tensors)
    if "encoder.embed_tokens.weight" in state_dict:
        state_dict.setdefault("shared.weight", state_dict.pop("encoder.embed_tokens.weight"))
    quantization = take_quantization(state_dict)
    shapes = plain_shapes(state_dict, quantization)
    config = infer_t5_config(shapes, checkpoint.config)
    expected = t5_shapes(config)
    check_names({name: shape for name, shape in shapes.items() if name in expected}, expected)
    return NetWeights(state_dict, config, quantization)


def known_tokens(checkpoint: Checkpoint) -> frozenset[int] | None:
    """The tokens that a small text encoder learned, as its file notes (`VOCABULARY`); None of one that learned all.

    Raises:
        ConsisIDError: the note is no list of numbers.
    """
    noted = checkpoint.metadata.get(VOCABULARY)
    if noted is None:
        return None
    try:
        return frozenset(map(int, json.loads(noted)))
    except (TypeError, ValueError):
        raise ConsisIDError(f"{checkpoint.path} notes no list of tokens as {VOCABULARY}. Download it again.") from None


def transformer_prefix(names: Collection[str]) -> str:
    """What stands before a CogVideoX transformer's parameter names in a larger checkpoint, averaged weights first.

    >>> transformer_prefix(["vae.x", "model.diffusion_model.patch_embed.text_proj.weight"])
    'model.diffusion_model.'

    "" where there is no such transformer, so that errors speak of the whole file.
    """
    anchor = "patch_embed.text_proj.weight"
    prefixes = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
    return min(prefixes, key=lambda prefix: ("ema" not in prefix, len(prefix)), default="")


def config_tensors(config: TransformerConfig) -> dict[str, torch.Tensor]:
    """What a saved transformer carries so that it loads again without diffusers' config.json."""
    return {SAVED_CONFIG: json_tensor(diffusers_config(config))}


def _take_transformer(checkpoint: Checkpoint) -> dict:
    """The transformer's part of a larger checkpoint, without the prefix of its names."""
    tensors = checkpoint.tensors
    prefix = transformer_prefix(tensors)
    others = [name for name in tensors if not name.startswith(prefix)]
    if prefix:
        logging.getLogger("consisid").info(
            "%s: took the %d parameters below %r and left %d others (%s)",
            checkpoint.path, len(tensors) - len(others), prefix, len(others), ", ".join(others[:3]),
        )  # fmt: skip
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


def _check_dtypes(state_dict: Mapping, quantization: Mapping) -> None:
    strange = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state_dict.items()
        if not tensor.is_floating_point() and name.rpartition(".")[0] not in quantization
    ]
    if strange:
        raise WeightsError(
            f"holds {len(strange)} parameters that are no floating-point numbers ({', '.join(strange[:10])}"
            f"{', …' if len(strange) > 10 else ''}): a quantisation that ComfyUI does not know"
        )
