"""LoRA files on the ConsisID transformer, in every naming that trainers use, through ComfyUI's own patches."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import comfy.lora
import comfy.model_patcher
import torch

from ..checkpoint.files import parse_json
from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about, describe_weights
from ..errors import ConsisIDError, WeightsError
from .dora import DoraAdapter
from .lora_names import MAGNITUDE, NET, is_of_text_encoder, parameters_by_module, without_adapter_names
from .transformer import require_consisid
from .weight_files import read_weights

REMEDY = "Choose a LoRA made for ConsisID or CogVideoX-5B"

DOWN_SUFFIXES = (".lora_A.weight", ".lora_down.weight", ".lora.down.weight")
DORA_SUFFIXES = (MAGNITUDE, ".dora_scale")

LOOKS_LIKE = {
    "a CogVideoX LoRA of the original SAT code; convert it to diffusers' format first": r"\.matrix_[AB]\.",
    "a Wan LoRA": r"blocks[._]\d+[._](self|cross)_attn[._]",
    "a Flux or HunyuanVideo LoRA": r"(double|single|single_transformer)_blocks[._]\d",
    "a Stable Diffusion LoRA": r"(down|up|mid|input|output|middle)_blocks?[._]",
    "a text encoder's LoRA": r"^(lora_te|text_encoder)",
}


def apply_lora(
    patcher: comfy.model_patcher.ModelPatcher, path: Path | str, strength: float
) -> comfy.model_patcher.ModelPatcher:
    """A clone of a ConsisID ModelPatcher with a LoRA's patches; the one that came in stays as it is.

    The scale is alpha / rank with the alpha of the file's tensors, else of diffusers' or finetrainers' metadata, else
    of PEFT's adapter_config.json, else 1, as in diffusers. DoRA is as in PEFT. Logs a warning with the names of tensors
    that fit nothing.

    Args:
        patcher: ConsisID.
        path: a LoRA file.
        strength: factor on its scale; 0 returns the model itself.

    Raises:
        ConsisIDError: the model is not ConsisID, or the file is damaged, fits no module, or has other sizes.
    """
    model = require_consisid(patcher)
    if strength == 0:
        return patcher
    checkpoint = read_weights(path)
    check_finite(checkpoint)
    config = _adapter_config(checkpoint)
    with about(path, REMEDY):
        tensors = without_adapter_names(checkpoint.tensors)
        patches = _patches(model, tensors, config)
    _warn_of_leftovers(path, tensors, patches)
    if config is None and not any(name.endswith(".alpha") for name in tensors):
        _warn_of_unknown_scale(path, tensors)
    patched = patcher.clone()
    patched.add_patches(patches, strength)
    return patched


def _patches(model, tensors, config):
    """Parameter -> patch, all of which fit, of a LoRA's tensors and its PEFT config."""
    weights = {name: weight for name, weight in model.state_dict().items() if name.startswith(NET)}
    names = parameters_by_module(tensors, weights)
    magnitudes = _magnitudes(tensors, names)
    # ComfyUI's own DoRA differs (`DoraAdapter`).
    others = {name: tensor for name, tensor in tensors.items() if not name.endswith(DORA_SUFFIXES)}
    patches = comfy.lora.load_lora({**_alphas(tensors, names, config), **others}, names, log_missing=False)
    patches = {key: patch for key, patch in patches.items() if key in weights}
    if not patches:
        raise WeightsError(f"fits nothing in the ConsisID transformer: it looks like {_describe(tensors)}")
    if config and config.get("use_dora") and not magnitudes:
        raise WeightsError("is a DoRA by its stored config, and its lora_magnitude_vector tensors are missing")
    for key, patch in patches.items():
        _check_fit(key, patch, weights[key].shape)
    for key, magnitude in magnitudes.items():
        patches[key] = _dora(key, patches.get(key), magnitude, weights[key].shape)
    return patches


def _adapter_config(checkpoint):
    """PEFT's LoraConfig as diffusers or finetrainers store it in the metadata, or PEFT beside its file; else None."""
    path = checkpoint.path
    for key in ("lora_adapter_metadata", "lora_config"):
        if text := checkpoint.metadata.get(key):
            config = parse_json(text, f"The {key} of {path}")
            return {name.removeprefix("transformer."): value for name, value in config.items()}
    beside = path.with_name("adapter_config.json")
    # By PEFT's fixed name of the weights, so that it is not taken for another LoRA in the same folder.
    if path.stem != "adapter_model" or not beside.is_file():
        return None
    try:
        text = beside.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConsisIDError(f"{beside} cannot be read ({error}). Put it there again.") from None
    return parse_json(text, beside)


def _alphas(tensors, names, config):
    """`<module>.alpha` for every module with matrices, from a LoraConfig, so that alpha / rank is PEFT's scale."""
    if not config:
        return {}
    if config.get("peft_type", "LORA") != "LORA":
        raise WeightsError(f"is a PEFT adapter of type {config['peft_type']}, of which only LORA is supported")
    alphas = {}
    for name, parameter in names.items():
        down = next((tensors[name + suffix] for suffix in DOWN_SUFFIXES if name + suffix in tensors), None)
        if down is None or f"{name}.alpha" in tensors:
            continue
        module = parameter.removeprefix(NET).removesuffix(".weight")
        patterns = (config.get("alpha_pattern") or {}).items()
        alpha = next(
            (value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", module)),
            config.get("lora_alpha"),
        )
        if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise WeightsError(f"has a stored lora_alpha of {alpha!r}, which is no number")
        if config.get("use_rslora"):  # alpha / sqrt(rank)
            alpha *= math.sqrt(down.shape[0])
        alphas[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float64)
    return alphas


def _magnitudes(tensors, names):
    """Parameter -> DoRA magnitude and the dimension it is along: PEFT's outputs; LyCORIS' either, by its shape."""
    found = {}
    for name, parameter in names.items():
        if (magnitude := tensors.get(name + MAGNITUDE)) is not None:
            found[parameter] = (magnitude, 0)
        elif (magnitude := tensors.get(f"{name}.dora_scale")) is not None:
            found[parameter] = (magnitude, 1 if magnitude.ndim > 1 and magnitude.shape[0] == 1 else 0)
    return found


def _dora(key, patch, magnitude, shape):
    """The DoRA patch of an adapter and its magnitude."""
    module, (values, axis) = key.removeprefix(NET).removesuffix(".weight"), magnitude
    if patch is None or isinstance(patch, tuple):
        raise WeightsError(f"is a DoRA that has a magnitude of {module} without the matrices")
    if values.numel() != shape[axis]:
        raise _misfit(module, shape, [*_tensors(patch), values])
    return DoraAdapter(patch.loaded_keys, (patch, values, axis))


@torch.inference_mode(False)
def _check_fit(key, patch, shape):
    """Apply a patch without values: what does not fit, ComfyUI would only log while sampling, and leave out."""
    if isinstance(patch, tuple):  # ("diff" or "set", (tensor,))
        fits = patch[1][0].shape == shape
    else:
        # OFT branches on values, so it needs some.
        weight = torch.zeros(shape, device="cpu" if patch.name in ("oft", "boft") else "meta")
        try:
            comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight, key)
            fits = weight._version > 0  # Written to, in place: the last thing that an adapter does.
        except RuntimeError:
            fits = False
        if patch.name == "lora":  # Matrices with the right number of values would be reshaped into nonsense.
            fits = fits and patch.weights[0].shape[0] == shape[0]
    if not fits:
        raise _misfit(key.removeprefix(NET), shape, _tensors(patch))


def _misfit(module, shape, tensors):
    sizes = " and ".join(_size(tensor.shape) for tensor in tensors)
    return WeightsError(f"has tensors that do not fit: {module} is {_size(shape)} here, and those for it are {sizes}")


def _size(shape):
    return "x".join(map(str, shape))


def _tensors(patch):
    """The tensors that a patch holds: an adapter's, those of the one inside DoRA's, or those of (kind, values)."""
    values = patch[1] if isinstance(patch, tuple) else patch.weights
    inner = _tensors(values[0]) if isinstance(patch, DoraAdapter) else []
    return [*inner, *(value for value in values if isinstance(value, torch.Tensor))]


def _warn_of_leftovers(path, tensors, patches, limit=10):
    used = {id(tensor) for patch in patches.values() for tensor in _tensors(patch)}
    left = [name for name, tensor in tensors.items() if id(tensor) not in used and not name.endswith(".alpha")]
    if left:
        text_encoders = sum(map(is_of_text_encoder, left))
        logging.getLogger("consisid").warning(
            "%s fits in part: %d weights are patched, and %d of its %d tensors fit nothing in ConsisID%s and are left "
            "out: %s%s", path, len(patches), len(left), len(tensors),
            f" ({text_encoders} of a text encoder, which is not patched here)" if text_encoders else "",
            ", ".join(left[:limit]), ", …" if len(left) > limit else "",
        )  # fmt: skip


def _warn_of_unknown_scale(path, tensors):
    if any(name.startswith("base_model.model.") for name in tensors):
        logging.getLogger("consisid").warning(
            "%s is a PEFT adapter without its adapter_config.json, which holds lora_alpha: its scale is taken as 1. "
            "Keep adapter_model.safetensors and adapter_config.json, by these names, in a folder of their own.",
            path,
        )


def _describe(names):
    """What a file that does not fit most likely is, for error messages."""
    if not any(re.search(r"lora|hada_|lokr_|oft_blocks|\.matrix_[AB]\.", name) for name in names):
        return describe_weights(names)
    for description, pattern in LOOKS_LIKE.items():
        if any(re.search(pattern, name) for name in names):
            return description
    return f"a LoRA of another model (first names: {', '.join(sorted(names)[:3])})"
