"""Weights in fewer bits with scales of their own, as ComfyUI's tools write them: two notations read into one."""

import json

from .files import json_tensor

SCALES = (".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale")
"""Ends of the names of what stands beside quantised weights."""

_OLD_SCALES = {".scale_weight": ".weight_scale", ".scale_input": ".input_scale"}


def take_quantization(state_dict):
    """Remove the quantisation settings from a state dict, old names of scales made new, and return them by layer."""
    if (old := state_dict.pop("scaled_fp8", None)) is not None:
        # Two elements instead of none say that products are not to be taken in fp8.
        precise = {"full_precision_matrix_mult": True} if old.numel() == 2 else {}
        for name in [name for name in state_dict if name.endswith(tuple(_OLD_SCALES))]:
            layer, suffix = name.rsplit(".", 1)
            scale, weight = state_dict.pop(name), state_dict[f"{layer}.weight"]
            if weight.dtype.itemsize > 1:  # ComfyUI 0.3.75 saves a scale for every layer: 1 for those without.
                continue
            state_dict[layer + _OLD_SCALES[f".{suffix}"]] = scale
            dtype = str(weight.dtype).removeprefix("torch.")
            state_dict[f"{layer}.comfy_quant"] = json_tensor({"format": dtype, **precise})
    layers = [name.removesuffix(".comfy_quant") for name in state_dict if name.endswith(".comfy_quant")]
    return {layer: json.loads(bytes(state_dict.pop(f"{layer}.comfy_quant").tolist())) for layer in layers}
