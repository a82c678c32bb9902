"""How trainers name the tensors of a LoRA, and the parameters of the model that they mean. No comfy import."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..errors import WeightsError

T = TypeVar("T")

NET = "diffusion_model."
"""What the names of the net's parameters begin with in a MODEL's state dict."""

MAGNITUDE = ".lora_magnitude_vector"
"""What stands behind a module's name for PEFT's DoRA magnitudes, once `without_adapter_names` is done."""

# Words that stand before a module's name, in any number and order: diffusers `transformer.`, PEFT `base_model.model.`,
# SimpleTuner `transformer.base_model.model.`, ComfyUI `diffusion_model.`, kohya `lora_unet_`, VideoX-Fun `lora_unet__`,
# OneTrainer `lora_transformer_`, LyCORIS `lycoris_`, torch `module.` and `_orig_mod.`. Not any word: a block of Stable
# Diffusion, `down_blocks.0.….transformer_blocks.0.attn1.to_q`, ends like one of ours.
_WRAPPER = re.compile(r"_*(lora|lycoris|unet|transformer|base_model|diffusion_model|model|module|orig_mod)_+")

_TEXT_ENCODER = re.compile(r"(lora_te\d*|text_encoders?(_\d)?)[._]")

# Where a module's name may end. Old diffusers joins its suffix by an underscore: `to_q_lora.up.weight`.
_END_OF_MODULE = re.compile(r"\.|_(?=lora\.(up|down)\.)")


def without_adapter_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors under names without that of PEFT's adapter: `x.lora_A.default.weight` becomes `x.lora_A.weight`.

    Raises:
        WeightsError: there are several adapters.
    """
    plain, origin = {}, {}
    for name, tensor in tensors.items():
        short = re.sub(r"\.lora_([AB])\.[^.]+\.weight$", r".lora_\1.weight", name)
        short = re.sub(rf"\{MAGNITUDE}\..+$", MAGNITUDE, short)
        if short in plain:
            raise WeightsError(f"holds several adapters, of which one can be loaded: {origin[short]} and {name}")
        plain[short], origin[short] = tensor, name
    return plain


def parameters_by_module(tensor_names: Iterable[str], parameters: Iterable[str]) -> dict[str, str]:
    """Finds the modules that a LoRA file means.

    A name in the file means a module if it is the module's name, with dots or underscores, behind any number of the
    words that trainers put before it.

    Args:
        tensor_names: in the file.
        parameters: of the model, as in its state dict.

    Returns:
        What stands before a tensor's suffix in the file, for example `lora_unet__proj_out` -> the parameter. What means
        nothing in the model is missing.

    Raises:
        WeightsError: two names mean the same parameter.
    """
    known = {_underscored(parameter.removeprefix(NET).removesuffix(".weight")): parameter for parameter in parameters}
    found, names = {}, {}
    for tensor_name in tensor_names:
        for end in reversed(list(_END_OF_MODULE.finditer(tensor_name))):  # The longest first: x.bias.diff is x.bias.
            name = tensor_name[: end.start()]
            if parameter := _find(_underscored(name), known):
                if found.setdefault(parameter, name) != name:
                    raise WeightsError(f"names one module in two ways: {found[parameter]} and {name}")
                names[name] = parameter
                break
    return names


def is_of_text_encoder(tensor_name: str) -> bool:
    """Whether a tensor of a LoRA is for a text encoder, by its name."""
    return bool(_TEXT_ENCODER.match(tensor_name))


def _underscored(name):
    return name.replace(".", "_")


def _find(name, known):
    while name not in known:
        wrapper = _WRAPPER.match(name)
        if not wrapper:
            return None
        name = name[wrapper.end() :]
    return known[name]
