"""The weights to go on from: `start.safetensors`, as small as a repository should carry.

Matrices are int8 with one float16 scale for each row, the linear code is float32, everything else float16. The file
holds the transformer with its text encoder, image tower and facial extractor, the face parser and the linear code; not
the VAE.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ...errors import ConsisIDError, in_short
from ...evaluation.results import whole_file
from .stage import read_state, write_state

START_FILE = Path(__file__).with_name("start.safetensors")

_SCALE = "::scale"
_SMALLEST = 8192
"""Numbers that a matrix has at least to be rounded to int8: the others are a twentieth of all."""
_EXACT = "code/"
"""What all nets were trained on stays as it is."""
_LARGEST_STEP = 127

Parts = dict[str, dict[str, torch.Tensor]]
"""Net -> parameter -> tensor."""


def write_start(parts: Parts, about: dict[str, str], file: Path) -> None:
    """Write such a file.

    Args:
        parts: the nets.
        about: what the file is; texts.
        file: takes the place of another once it is whole.
    """
    tensors = {}
    for part, state_dict in parts.items():
        for name, tensor in state_dict.items():
            tensors |= _packed(f"{part}/{name}", tensor)
    with whole_file(file) as unfinished:
        save_file(tensors, unfinished, about)


def read_start(file: Path = START_FILE) -> tuple[Parts, dict[str, str]]:
    """The nets in float32, and what the file says of itself.

    Raises:
        ConsisIDError: the file is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        json.loads(about["vocabulary"])
    # safetensors raises errors of its own, without a common class.
    except Exception as error:
        raise ConsisIDError(
            f"{file} cannot be read ({in_short(error)}). It comes with the repository: restore it with git, or start "
            "from nothing, without --start."
        ) from None
    parts: Parts = {}
    for key, tensor in tensors.items():
        if key.endswith(_SCALE):
            continue
        part, _, name = key.partition("/")
        if tensor.dtype == torch.int8:
            tensor = (_rows(tensor).float() * tensors[key + _SCALE].float()).view(tensor.shape)
        parts.setdefault(part, {})[name] = tensor.float() if tensor.is_floating_point() else tensor
    return parts, about


def begin(work: Path, file: Path = START_FILE) -> None:
    """Put the nets into a new folder as if its stages had made them. The stages that made them count as done; the
    transformer's goes on.

    Raises:
        ConsisIDError: the folder holds stages already, or the file is damaged.
    """
    parts, about = read_start(file)
    tokens = json.loads(about["vocabulary"])
    if found := [stage for stage in ("vocabulary", *parts) if read_state(work, stage)]:
        raise ConsisIDError(
            f"{work} has a {found[0]}.pt already, so --start would overwrite it. Go on without --start, or name a new "
            "folder."
        )
    # transformers' T5 has its table twice.
    denoiser = {**parts["denoiser"], "text.encoder.embed_tokens.weight": parts["denoiser"]["text.shared.weight"]}
    identity = {f"identity.{name}": x for name, x in parts["identity"].items()}
    write_state(work, "vocabulary", {"tokens": tokens})
    write_state(work, "code", parts["code"])
    write_state(work, "identity", {"averaged": identity})
    write_state(work, "parser", {"averaged": parts["parser"], "is_finished": True})
    write_state(work, "denoiser", {"averaged": denoiser, "identity": parts["identity"]})


def _packed(key, tensor):
    """One entry, or two for a rounded matrix."""
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point() or key.startswith(_EXACT):
        return {key: tensor.contiguous()}
    if tensor.ndim < 2 or tensor.numel() < _SMALLEST:
        return {key: tensor.half().contiguous()}
    rows = _rows(tensor).float()
    scale = (rows.abs().amax(1, keepdim=True) / _LARGEST_STEP).clamp(min=1e-7).half()
    steps = (rows / scale.float()).round().clamp(-_LARGEST_STEP, _LARGEST_STEP)
    return {key: steps.to(torch.int8).view(tensor.shape).contiguous(), key + _SCALE: scale.contiguous()}


def _rows(tensor):
    """A matrix of what has a scale of its own: of each output of a layer, or each place of a table [1, N, D]."""
    return (tensor[0] if len(tensor) == 1 else tensor).flatten(1)
