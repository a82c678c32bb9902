"""The forms in which people have the transformer, read into one: plain names, one config, one quantisation format."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.files import SAVED_CONFIG, parse_json
from ..checkpoint.fit import about, check_names, transformer_prefix
from ..checkpoint.net_config import diffusers_config, infer_transformer_config
from ..errors import ConsisIDError
from ..model.config import TransformerConfig
from ..model.transformer import ConsisIDTransformer
from .files import json_tensor, read_state_dict
from .quantization import SCALES, take_quantization

REMEDY = "Choose ConsisID's transformer: the folder `transformer` of BestWishYsh/ConsisID-preview"


@dataclass(frozen=True)
class TransformerFile:
    state_dict: dict
    """Parameter name -> tensor; of a quantised layer also its `.weight_scale` and the like."""
    config: TransformerConfig
    quantization: dict
    """Name of a quantised layer -> ComfyUI's settings for it ("format" and more); empty for plain weights."""


def read_transformer(path):
    """TransformerFile of a weight file or a folder of shards, whatever stands around the transformer in it.

    Raises ConsisIDError naming the file if it is not a complete ConsisID transformer.
    """
    _log_averaged_weights(Path(path))
    state_dict, config = read_state_dict(path)
    state_dict = _take_transformer(state_dict, path)
    with about(path, REMEDY):
        if (saved := state_dict.pop(SAVED_CONFIG, None)) is not None:
            config = parse_json(bytes(saved.tolist()).decode(errors="replace"), f"has a {SAVED_CONFIG} that")
        quantization = take_quantization(state_dict)
        shapes = {name: tensor.shape for name, tensor in state_dict.items() if not name.endswith(SCALES)}
        config = infer_transformer_config(shapes, config)
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in ConsisIDTransformer(config).state_dict().items()}
        check_names(shapes, expected)
        _check_dtypes(state_dict, quantization)
    return TransformerFile(state_dict, config, quantization)


def config_tensors(config):
    """What a saved transformer carries so that it loads again without diffusers' config.json."""
    return {SAVED_CONFIG: json_tensor(diffusers_config(config))}


def _log_averaged_weights(path):
    if path.name == "transformer" and path.with_name("transformer_ema").is_dir():
        logging.getLogger("consisid").warning(
            "%s has averaged weights beside it, in transformer_ema. The reference prefers those; choose them.", path
        )  # fmt: skip


def _take_transformer(state_dict, path):
    """The transformer's part of a larger checkpoint, without the prefix of its names."""
    prefix = transformer_prefix(state_dict)
    others = [name for name in state_dict if not name.startswith(prefix)]
    if prefix:
        logging.getLogger("consisid").info(
            "%s: took the %d parameters below %r and left %d others (%s)",
            path, len(state_dict) - len(others), prefix, len(others), ", ".join(others[:3]),
        )  # fmt: skip
    return {name.removeprefix(prefix): state_dict[name] for name in state_dict if name.startswith(prefix)}


def _check_dtypes(state_dict, quantization):
    strange = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state_dict.items()
        if not tensor.is_floating_point() and name.rpartition(".")[0] not in quantization
    ]
    if strange:
        raise ConsisIDError(
            f"holds {len(strange)} parameters that are no floating-point numbers ({', '.join(strange[:10])}"
            f"{', …' if len(strange) > 10 else ''}): a quantisation that ComfyUI does not know"
        )
