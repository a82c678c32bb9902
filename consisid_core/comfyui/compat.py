"""What differs between ComfyUI versions. Each shim names the version that retires it."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.quant_ops
import comfy.sd
import comfy.supported_models_base
import torch
from comfy_api.latest import io

from ..checkpoint.quantization import json_tensor
from ..errors import ConsisIDError, WeightsError


def schema(search_aliases: list[str], **fields: Any) -> io.Schema:
    """Make a node's `io.Schema`.

    Args:
        search_aliases: Other words under which users look for the node. Before 0.11 there is no place for them.
        fields: The other fields of `io.Schema`.
    """
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):  # Retired by 0.11.
        fields["search_aliases"] = search_aliases
    return io.Schema(**fields)


def growing_inputs(group: str, kind: type, names: list[str], shown: int) -> list[io.Input]:
    """Make optional inputs of one kind of which the frontend shows as many as are in use, and one more.

    Args:
        group: Name of the `io.Autogrow` input.
        kind: An io type such as `io.Image`.
        names: Name of each input. Before 0.11 these are ordinary inputs, all shown.
        shown: How many are there from the start.
    """
    if hasattr(io, "Autogrow"):
        template = io.Autogrow.TemplateNames(kind.Input(group, optional=True), names, min=shown)
        return [io.Autogrow.Input(group, template)]
    return [kind.Input(name, optional=True) for name in names]  # Retired by 0.11.


def growing_values(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Gather what a node's `execute` got from `growing_inputs`, by name in the order of names.

    ComfyUI hands over links that a graph has, whether or not the schema names them: a graph made before Autogrow has
    `video_1`, one made with it and run without has `videos.video_1`. The frontend shows those inputs beside its own.

    Args:
        group: As in `growing_inputs`.
        values: Keyword arguments of `execute` that are no other inputs.

    Raises:
        ConsisIDError: If a name is connected in both ways.
    """
    others = [(name.removeprefix(f"{group}."), value) for name, value in values.items() if name != group]
    pairs = [*values.get(group, {}).items(), *others]
    named = dict(sorted(pairs, key=lambda pair: pair[0]))
    if len(named) < len(pairs):
        raise ConsisIDError(
            f"Two of the {group} are connected to inputs of the same name, one of which comes from another version of "
            "ComfyUI. Disconnect one of them, or connect it to an input that is free."
        )
    return named


def core_model_patcher() -> type[comfy.model_patcher.ModelPatcher]:
    """The patcher class for models made of comfy.ops layers: streams weights where ComfyUI can (0.12 and newer)."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def is_dynamic(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the patcher maps weights from the file instead of copying them (0.12 and newer)."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def set_quantization(model_config: comfy.supported_models_base.BASE, quantization: Mapping[str, dict]) -> None:
    """Tell ComfyUI before a diffusion model is built that layers are quantised.

    Args:
        model_config: of the model; gets the settings.
        quantization: layer name -> ComfyUI's settings for it.

    Raises:
        WeightsError: this ComfyUI does not know the format.
    """
    if _has_quantized_layers():
        _require_known(quantization, comfy.quant_ops.QUANT_ALGOS)
        model_config.quant_config = {"mixed_ops": True}
    else:  # Retired by 0.4.
        _require_known(quantization, ("float8_e4m3fn", "float8_e5m2"))
        model_config.scaled_fp8 = torch.float8_e4m3fn


def load_clip(
    state_dict: dict[str, torch.Tensor],
    target: comfy.supported_models_base.ClipTarget,
    disable_dynamic: bool,
    **arguments,
) -> comfy.sd.CLIP:
    """`comfy.sd.CLIP` of a ClipTarget with its weights, which newer constructors (after 0.3.75) put to use at once."""
    parameters = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in parameters:
        arguments["disable_dynamic"] = disable_dynamic
    if "state_dict" in parameters:
        return comfy.sd.CLIP(target, state_dict=[state_dict], **arguments)
    clip = comfy.sd.CLIP(target, **arguments)
    clip.load_sd(state_dict)
    return clip


def quantized_text_encoder(quantization: Mapping[str, dict]) -> tuple[dict, dict[str, torch.Tensor]]:
    """What a text encoder with quantised layers needs.

    Args:
        quantization: layer name -> ComfyUI's settings for it.

    Returns:
        (model options, tensors that the state dict needs besides).

    Raises:
        WeightsError: this ComfyUI does not know the format.
    """
    if not quantization:
        return {}, {}
    _require_known(quantization, comfy.quant_ops.QUANT_ALGOS)
    if _has_quantized_layers():
        return {"t5xxl_quantization_metadata": {"mixed_ops": True}}, _settings_tensors(quantization)
    # Retired by 0.4.
    return {"quantization_metadata": json.dumps({"layers": quantization})}, {}


def _require_known(quantization, formats):
    if unknown := {settings.get("format") for settings in quantization.values()} - set(formats):
        raise WeightsError(f"is quantised as {', '.join(map(str, unknown))}, which this ComfyUI does not know")


def _settings_tensors(quantization):
    return {f"{layer}.comfy_quant": json_tensor(settings) for layer, settings in quantization.items()}


def _has_quantized_layers():
    """Whether layers read their own quantisation settings from the state dict (after 0.3.75)."""
    return hasattr(comfy.supported_models_base.BASE, "quant_config")


def note_dtypes(net: torch.nn.Module) -> None:
    """Note the types that the parameters have now as those to which a streaming patcher casts them (newer ComfyUI)."""
    if hasattr(comfy.model_management, "archive_model_dtypes"):
        comfy.model_management.archive_model_dtypes(net)


def load_weights(
    net: torch.nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    quantization: Mapping[str, dict],
    patcher: comfy.model_patcher.ModelPatcher,
) -> None:
    """Strictly put weights into a net that was built without (on the meta device).

    Weights that have the net's dtype become its parameters as they are, mapped from the file; the others are converted
    one by one. Quantised layers and a streaming patcher take any dtype and convert when they compute.
    """
    if quantization and _has_quantized_layers():
        state_dict = {**state_dict, **_settings_tensors(quantization)}
    elif quantization:
        state_dict = _with_old_scales(net, state_dict)
    elif not is_dynamic(patcher):
        state_dict = {name: state_dict[name].to(parameter.dtype) for name, parameter in net.named_parameters()}
    net.load_state_dict(state_dict, strict=True, assign=True)


def _with_old_scales(net, state_dict):
    """Scales as 0.3.75 has them: one number for each linear layer."""
    weights = {name: tensor for name, tensor in state_dict.items() if not name.endswith("_scale")}
    for name, module in net.named_modules():
        if hasattr(module, "scale_weight"):
            scale = state_dict.get(f"{name}.weight_scale", torch.ones(()))
            weights[f"{name}.scale_weight"] = scale.float().reshape(())
    return weights


def patched_weight(patcher: comfy.model_patcher.ModelPatcher, name: str) -> torch.Tensor:
    """One of a model's weights as it computes, in float32: out of its quantisation, with its LoRA patches merged.

    Core's `get_key_patches` does this for many at once, but stumbles over the scales of quantised layers.
    """
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, name)
    if name in patcher.backup:  # The model is loaded and carries the patches itself.
        weight = patcher.backup[name].weight
    if name in patcher.hook_backup:
        weight = patcher.hook_backup[name][0]
    # A copy, because the patches are applied in place.
    weight = comfy.model_management.cast_to_device(weight, torch.device("cpu"), torch.float32, copy=True)
    if convert is not None:
        weight = convert(weight)
    return comfy.lora.calculate_weight(patcher.patches.get(name, []), weight, name)
