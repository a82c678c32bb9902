"""Random weights, and files of them in the forms of the release, each marked as random."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..checkpoint.files import DEMO_MARKER

DEMO_NOTE = "random weights of test size, for demos and tests: results are noise"

StateDict = dict[str, torch.Tensor]


def randomize(state_dict: StateDict, seed: int) -> StateDict:
    """Fill tensors in place so that no branch of a net vanishes or explodes: norms near 1, matrices by fan-in."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state_dict.items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif "norm" in name and tensor.ndim == 1 and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        elif "relative_attention_bias" in name or "shared" in name or "token" in name:
            pass
        elif tensor.ndim >= 2 and "pos_embed" not in name:
            noise = noise / tensor[0].numel() ** 0.5
        else:
            noise = 0.1 * noise
        tensor.copy_(noise)
    return state_dict


def write_shards(
    folder: Path, name: str, shards: Sequence[Sequence[str]], load: Callable[[Sequence[str]], StateDict], config: dict
) -> None:
    """Write shards, an index and a config, as `save_pretrained` of diffusers and transformers lays them out.

    Args:
        name: how the files begin, before the number of the shard.
        shards: the names of the tensors that each shard holds.
        load: gives the tensors of these names; asked for one shard at a time, so that no two are in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weight_map, size = {}, 0
    for number, names in enumerate(shards, start=1):
        file = f"{name}-{number:05}-of-{len(shards):05}.safetensors"
        state_dict = load(names)
        save_safetensors(state_dict, folder / file)
        weight_map.update(dict.fromkeys(names, file))
        size += sum(tensor.nbytes for tensor in state_dict.values())
        del state_dict
    save_json({"metadata": {"total_size": size}, "weight_map": weight_map}, folder / f"{name}.safetensors.index.json")
    save_json(config, folder / "config.json")


def save_safetensors(state_dict: StateDict, file: Path, config: dict | None = None) -> None:
    """Write one .safetensors file, with the config in its metadata if there is one."""
    metadata = {DEMO_MARKER: DEMO_NOTE, "format": "pt"}
    if config:
        metadata["config"] = json.dumps(config)
    replace(file, lambda temporary: save_file(state_dict, temporary, metadata))


def save_pickle(state_dict: StateDict, file: Path) -> None:
    """Write one file of `torch.save`."""
    replace(file, lambda temporary: torch.save({**state_dict, DEMO_MARKER: torch.ones(1)}, temporary))


def save_json(content: dict, file: Path) -> None:
    """Write one JSON file."""
    replace(file, lambda temporary: temporary.write_text(json.dumps(content, indent=2), encoding="utf-8"))


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and rename, so that a stopped run never leaves half a file under its final name."""
    temporary = file.with_name(f"{file.name}.part")
    write(temporary)
    os.replace(temporary, file)
