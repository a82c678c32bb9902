"""LoRA files on the ConsisID transformer, in every naming that trainers use, through ComfyUI's own patches."""

import logging
import math
import re

import comfy.lora
import torch

from ..checkpoint.files import parse_json
from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about, describe_weights
from ..errors import ConsisIDError, WeightsError
from .transformer import require_consisid
from .weight_files import read_weights

REMEDY = "Choose a LoRA made for ConsisID or CogVideoX-5B"

# What stands before a module's name: diffusers, PEFT, no prefix; OneTrainer, LyCORIS. ComfyUI itself knows
# `diffusion_model.` and kohya's `lora_unet_`.
DOTTED_PREFIXES = ("transformer.", "base_model.model.", "")
UNDERSCORED_PREFIXES = ("lora_transformer_", "lycoris_")

LOOKS_LIKE = {
    "a CogVideoX LoRA of the original SAT code; convert it to diffusers' format first": r"\.matrix_[AB]\.",
    "a Wan LoRA": r"blocks[._]\d+[._](self|cross)_attn[._]",
    "a Flux or HunyuanVideo LoRA": r"(double|single|single_transformer)_blocks[._]\d",
    "a Stable Diffusion LoRA": r"(down|up|mid|input|output|middle)_blocks?[._]",
    "a text encoder's LoRA": r"^(lora_te|text_encoder)",
}


def apply_lora(patcher, path, strength):
    """A clone of a ConsisID ModelPatcher with a LoRA's patches; the one that came in stays as it is.

    path: a LoRA file; strength: factor on its scale, 0 returns the model itself. The scale is alpha / rank with the
    alpha of the file's tensors, else of diffusers' metadata, else of PEFT's adapter_config.json, else 1, as in
    diffusers. Logs a warning with the names of tensors that fit nothing.
    Raises ConsisIDError if the model is not ConsisID, or the file is damaged, fits no module, or has other sizes.
    """
    model = require_consisid(patcher)
    if strength == 0:
        return patcher
    checkpoint = read_weights(path)
    check_finite(checkpoint)
    tensors, stored = checkpoint.tensors, _adapter_config(checkpoint)
    with about(path, REMEDY):
        alphas = _alphas(tensors, stored)
        patches = comfy.lora.load_lora({**alphas, **tensors}, _module_names(model), log_missing=False)
        weights = model.state_dict()
        patches = {key: patch for key, patch in patches.items() if key in weights}
        if not patches:
            raise WeightsError(f"fits nothing in the ConsisID transformer: it looks like {_describe(tensors)}")
        for key, patch in patches.items():
            _check_fit(key.removeprefix("diffusion_model."), patch, weights[key].shape)
    _warn_of_leftovers(path, tensors, patches)
    if stored is None and not any(name.endswith(".alpha") for name in tensors):
        _warn_of_unknown_scale(path, tensors)
    patched = patcher.clone()
    patched.add_patches(patches, strength)
    return patched


def _module_names(model):
    """A LoRA's name of a module -> the model's parameter."""
    names = comfy.lora.model_lora_keys_unet(model, {})
    for name, key in list(names.items()):
        if name.startswith("diffusion_model."):
            module = name.removeprefix("diffusion_model.")
            names.update({prefix + module: key for prefix in DOTTED_PREFIXES})
            names.update({prefix + module.replace(".", "_"): key for prefix in UNDERSCORED_PREFIXES})
    return names


def _adapter_config(checkpoint):
    """PEFT's LoraConfig as diffusers stores it in the metadata, or PEFT beside its file; None if it was not stored."""
    path = checkpoint.path
    if text := checkpoint.metadata.get("lora_adapter_metadata"):
        config = parse_json(text, f"The lora_adapter_metadata of {path}")
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


def _alphas(tensors, config):
    """`<module>.alpha` for every PEFT module, from a LoraConfig, so that alpha / rank is PEFT's scale."""
    if not config:
        return {}
    if config.get("peft_type", "LORA") != "LORA":
        raise WeightsError(f"is a PEFT adapter of type {config['peft_type']}, of which only LORA is supported")
    alphas = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(transformer\.|base_model\.model\.)?(.+)(\.lora_A(\.default)?\.weight)", name):
            prefix, module = match[1] or "", match[2]
            patterns = (config.get("alpha_pattern") or {}).items()
            alpha = next(
                (value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", module)),
                config.get("lora_alpha"),
            )
            if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
                raise WeightsError(f"has a stored lora_alpha of {alpha!r}, which is no number")
            if config.get("use_rslora"):  # alpha / sqrt(rank)
                alpha *= math.sqrt(tensor.shape[0])
            alphas[f"{prefix}{module}.alpha"] = torch.tensor(alpha, dtype=torch.float64)
    return alphas


@torch.inference_mode(False)
def _check_fit(module, patch, shape):
    """Apply a patch without values: what does not fit, ComfyUI would only log while sampling, and leave out."""
    if isinstance(patch, tuple):  # ("diff" or "set", (tensor,))
        fits = patch[1][0].shape == shape
    else:
        # OFT branches on values, so it needs some.
        weight = torch.zeros(shape, device="cpu" if patch.name in ("oft", "boft") else "meta")
        try:
            comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight, module)
            fits = weight._version > 0  # Written to, in place: the last thing that an adapter does.
        except RuntimeError:
            fits = False
        if patch.name == "lora":  # Matrices with the right number of values would be reshaped into nonsense.
            fits = fits and patch.weights[0].shape[0] == shape[0]
    if not fits:
        sizes = " and ".join(_size(tensor.shape) for tensor in _tensors(patch))
        raise WeightsError(
            f"has tensors that do not fit: {module} is {_size(shape)} here, and those for it are {sizes}"
        )


def _size(shape):
    return "x".join(map(str, shape))


def _tensors(patch):
    """The tensors that a patch holds: an adapter's, or those of a tuple (kind, values)."""
    values = patch[1] if isinstance(patch, tuple) else patch.weights
    return [value for value in values if isinstance(value, torch.Tensor)]


def _warn_of_leftovers(path, tensors, patches, limit=10):
    used = {id(tensor) for patch in patches.values() for tensor in _tensors(patch)}
    left = [name for name, tensor in tensors.items() if id(tensor) not in used and not name.endswith(".alpha")]
    if left:
        logging.getLogger("consisid").warning(
            "%s fits in part: %d weights are patched, and %d of its %d tensors fit nothing in ConsisID and are left "
            "out: %s%s", path, len(patches), len(left), len(tensors), ", ".join(left[:limit]),
            ", …" if len(left) > limit else "",
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
