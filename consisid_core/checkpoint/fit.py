"""Whether the parameters in a weight file are those of a net: names, shapes, and what they are otherwise."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError, WeightsError, in_short, is_out_of_memory

if TYPE_CHECKING:
    import torch

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


def describe_weights(names: Collection[str]) -> str:
    """What a state dict with these parameter names most likely is, for error messages."""
    if "local_facial_extractor.proj_out" in names:
        return "a ConsisID transformer"
    for description, keys in _SIGNATURES.items():
        if any(name.startswith(key) or (key == "lora" and ".lora_" in name) for name in names for key in keys):
            return description
    first = ", ".join(sorted(names)[:3])
    return f"weights of another kind (first names: {first})" if first else "an empty file"


def check_names(shapes: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], limit: int = 10) -> None:
    """Compare the parameters that there are with those that a net has.

    Args:
        shapes: parameter name -> shape, as found.
        expected: the same of the net.
        limit: so many of each kind are named, all are counted.

    Raises:
        WeightsError: naming missing, unknown and mis-shaped parameters.
    """
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
        raise WeightsError("does not fit: parameters " + "; ".join(problems))


def load_exactly(net: torch.nn.Module, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Give a net, usually built on the meta device, these weights without a copy.

    Args:
        net: takes the tensors themselves as its parameters, whatever their dtype.
        state_dict: all of the net's parameters. BatchNorm's counters, which only training reads, may be missing.

    Raises:
        WeightsError: names or shapes are not those of the net.
    """
    import torch

    expected = {name: x.shape for name, x in net.state_dict().items()}
    counters = {name: torch.zeros((), dtype=torch.long) for name in expected if name.endswith("num_batches_tracked")}
    weights = counters | dict(state_dict)
    check_names({name: x.shape for name, x in weights.items()}, expected)
    net.load_state_dict(weights, assign=True)


@contextmanager
def about(path: Path | str, remedy: str) -> Iterator[None]:
    """Fit a file's weights to a net inside: what goes wrong there becomes the file's name, the cause and the remedy.

    Args:
        path: the weight file, or the folder of shards.
        remedy: a sentence without its full stop.

    Raises:
        WeightsError: for a WeightsError, a missing parameter, or whatever else foreign shapes lead to.
        ConsisIDError: any other, as it is.
    """
    try:
        yield
        return
    except WeightsError as error:
        problem = error.problem
    except ConsisIDError:
        raise
    except KeyError as error:
        problem = f"is incomplete: parameter {error.args[0]} is missing"
    # Sizes read off foreign shapes fit no net, in more ways than can be named.
    except Exception as error:
        # ComfyUI makes room and says what to do about that.
        if is_out_of_memory(error):
            raise
        logging.getLogger("consisid").debug("%s does not fit", path, exc_info=True)
        problem = f"does not fit: its parameters have unexpected shapes ({in_short(error)})"
    raise WeightsError(problem, str(path), f"{remedy}.") from None
