"""Weights in fewer bits with scales of their own, as ComfyUI's tools write them: every notation read into one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError, WeightsError
from .files import parse_json

if TYPE_CHECKING:
    import torch

VALUES_PER_BYTE = {"nvfp4": 2, "convrot_w4a4": 2, "asym_w4a8_int8": 2}
"""ComfyUI's quantisation formats that pack several values of a row into one element (`comfy/quant_ops.py`)."""

SETTINGS = (".comfy_quant", "scaled_fp8")
"""Ends of the names that say of a state dict, in one notation or another, that layers are quantised."""

_OLD_SCALES = {".scale_weight": ".weight_scale", ".scale_input": ".input_scale"}


def json_tensor(content: dict) -> torch.Tensor:
    """JSON as bytes in a tensor [N] uint8, as ComfyUI keeps settings among weights."""
    import torch

    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def noted_quantization(metadata: Mapping[str, str], file: Path) -> dict[str, torch.Tensor]:
    """The settings in a file's metadata as the `<layer>.comfy_quant` tensors that other files have instead.

    Raises:
        ConsisIDError: naming the file, if they are in another form.
    """
    noted = parse_json(metadata.get("_quantization_metadata", "{}"), f"The metadata of {file}").get("layers")
    if not isinstance(noted, dict | None):
        raise ConsisIDError(f"The metadata of {file} name no layers by their quantisation. Download it again.")
    return {f"{layer}.comfy_quant": json_tensor(settings) for layer, settings in (noted or {}).items()}


def take_quantization(state_dict: MutableMapping) -> dict[str, dict]:
    """Remove the quantisation settings from a state dict and make old names of scales new.

    Args:
        state_dict: parameter name -> tensor, or StoredTensor.

    Returns:
        Name of a quantised layer -> ComfyUI's settings for it, "format" among them.

    Raises:
        WeightsError: settings that are not ComfyUI's.
    """
    if (old := state_dict.pop("scaled_fp8", None)) is not None:
        # Two elements instead of none say that products are not to be taken in fp8.
        precise = {"full_precision_matrix_mult": True} if math.prod(old.shape) == 2 else {}
        for name in [name for name in state_dict if name.endswith(tuple(_OLD_SCALES))]:
            layer, suffix = name.rsplit(".", 1)
            scale, weight = state_dict.pop(name), state_dict[f"{layer}.weight"]
            if weight.dtype.itemsize > 1:  # ComfyUI 0.3.75 saves a scale for every layer: 1 for those without.
                continue
            state_dict[layer + _OLD_SCALES[f".{suffix}"]] = scale
            dtype = str(weight.dtype).removeprefix("torch.")
            state_dict[f"{layer}.comfy_quant"] = json_tensor({"format": dtype, **precise})
    layers = [name.removesuffix(".comfy_quant") for name in state_dict if name.endswith(".comfy_quant")]
    return {layer: _settings(state_dict.pop(f"{layer}.comfy_quant"), layer) for layer in layers}


def _settings(tensor, layer):
    try:
        settings = json.loads(bytes(tensor.tolist()))
    except (ValueError, TypeError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("format"), str):
        raise WeightsError(f"has quantisation settings for {layer} that are not in ComfyUI's form")
    return settings


def plain_shapes(state_dict: Mapping, quantization: Mapping[str, dict]) -> dict[str, tuple[int, ...]]:
    """The shapes that parameters have in the net.

    Args:
        state_dict: parameter name -> tensor, or StoredTensor, without the settings.
        quantization: of `take_quantization`.

    Returns:
        Parameter name -> shape; packed weights as long as they are unpacked, and without the scales beside them.
    """
    shapes = {}
    for name, tensor in state_dict.items():
        layer, _, parameter = name.rpartition(".")
        settings = quantization.get(layer)
        if settings is None:
            shapes[name] = tuple(tensor.shape)
        elif parameter == "weight":
            packed = VALUES_PER_BYTE.get(settings["format"], 1)
            shapes[name] = (*tensor.shape[:-1], tensor.shape[-1] * packed)
        elif parameter == "bias":
            shapes[name] = tuple(tensor.shape)
    return shapes
