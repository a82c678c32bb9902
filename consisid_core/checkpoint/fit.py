"""Whether the parameters in a weight file are those of a net: names, shapes, and what they are otherwise."""

import logging
from contextlib import contextmanager

from ..errors import ConsisIDError, in_short

_SIGNATURES = {
    "a Stable Diffusion checkpoint": ("model.diffusion_model.", "cond_stage_model.", "first_stage_model."),
    "a plain CogVideoX transformer, without ConsisID's face modules": ("patch_embed.text_proj.weight",),
    "a ComfyUI-format CogVideoX transformer": ("blocks.0.norm1.linear.weight",),
    "a T5 text encoder": ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    "a CogVideoX VAE": ("decoder.conv_in.conv.weight",),
    "an image VAE": ("decoder.conv_in.weight",),
    "an EVA-CLIP model": ("visual.cls_token", "cls_token"),
    "a BiSeNet face parser": ("cp.resnet.conv1.weight",),
    "a LoRA": ("lora",),
}


def describe_weights(names):
    """What a state dict with these parameter names most likely is, for error messages."""
    if "local_facial_extractor.proj_out" in names:
        return "a ConsisID transformer"
    for description, keys in _SIGNATURES.items():
        if any(name.startswith(key) or (key == "lora" and ".lora_" in name) for name in names for key in keys):
            return description
    first = ", ".join(sorted(names)[:3])
    return f"weights of another kind (first names: {first})" if first else "an empty file"


def check_names(shapes, expected, limit=10):
    """Raise ConsisIDError naming missing, unknown and mis-shaped parameters (first ten and a count)."""
    missing = [name for name in expected if name not in shapes]
    unknown = [name for name in shapes if name not in expected]
    misshapen = [
        f"{name} {tuple(shapes[name])} instead of {tuple(expected[name])}"
        for name in expected
        if name in shapes and tuple(shapes[name]) != tuple(expected[name])
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:limit])}{', …' if len(names) > limit else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of the wrong shape", misshapen))
        if names
    ]
    if problems:
        raise ConsisIDError("does not fit: parameters " + "; ".join(problems))


def transformer_prefix(names):
    """What stands before a CogVideoX transformer's parameter names in a larger checkpoint, averaged weights first.

    >>> transformer_prefix(["vae.x", "model.diffusion_model.patch_embed.text_proj.weight"])
    'model.diffusion_model.'

    "" where there is no such transformer, so that errors speak of the whole file.
    """
    anchor = "patch_embed.text_proj.weight"
    prefixes = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
    return min(prefixes, key=lambda prefix: ("ema" not in prefix, len(prefix)), default="")


@contextmanager
def about(path, remedy):
    """Fit a file's weights to a net inside: what goes wrong there becomes the file's name, the cause and the remedy."""
    try:
        yield
        return
    except ConsisIDError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"is incomplete: parameter {error.args[0]} is missing"
    # Sizes read off foreign shapes fit no net, in more ways than can be named.
    except Exception as error:
        # ComfyUI makes room and says what to do about that.
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
            raise
        logging.getLogger("consisid").debug("%s does not fit", path, exc_info=True)
        reason = f"does not fit: its parameters have unexpected shapes ({in_short(error)})"
    raise ConsisIDError(f"{path} {reason}. {remedy}") from None
