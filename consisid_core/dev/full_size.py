"""Writes a transformer of the released size with random weights, in the released form: shards, an index, a config.

    python -m consisid_core.dev.full_size FOLDER

12.4 GB in bf16, for what only the real size can show: memory, speed, ComfyUI's offloading. Videos made with it are
noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from ..checkpoint.net_config import diffusers_config
from ..model.config import TransformerConfig
from ..model.transformer import ConsisIDTransformer
from .random_weights import StateDict, randomize, write_shards

SHARD_BYTES = 5_000_000_000


def write_full_size(folder: Path, config: TransformerConfig | None = None, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the weights in bf16, replacing earlier ones; at most one shard is in memory.

    Args:
        folder: the folder of the shards, made if it is not there.
        config: the released size unless given.
        shard_bytes: no shard is larger, unless a single tensor is.
    """
    config = config or TransformerConfig()
    with torch.device("meta"):
        weights = ConsisIDTransformer(config, dtype=torch.bfloat16).state_dict()
    shards, size = [[]], 0
    for name, weight in weights.items():
        size += weight.nbytes
        if shards[-1] and size > shard_bytes:
            shards.append([])
            size = weight.nbytes
        shards[-1].append(name)
    seeds = {name: seed for seed, name in enumerate(weights)}
    progress = tqdm(total=len(weights), unit="tensor")

    def load(names: Sequence[str]) -> StateDict:
        tensors = {}
        for name in names:  # One by one, because random numbers are drawn in float32.
            (tensor,) = randomize({name: torch.empty(weights[name].shape)}, seeds[name]).values()
            tensors[name] = tensor.bfloat16()
            progress.update()
        return tensors

    with progress:
        write_shards(folder, "diffusion_pytorch_model", shards, load, diffusers_config(config))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.dev.full_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to write, for example models/diffusion_models/full_size")
    folder = parser.parse_args(arguments).folder
    try:
        write_full_size(folder)
    except (OSError, SafetensorError) as error:
        sys.exit(f"Error: {folder} cannot be written ({error}). Name a folder on a disk with 12.4 GB left.")


if __name__ == "__main__":
    main()
