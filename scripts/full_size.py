"""Writes a transformer of the released size with random weights, in the released form: shards, an index, a config.

    python scripts/full_size.py FOLDER

12.4 GB in bf16, for what only the real size can show: memory, speed, ComfyUI's offloading.
tests/dev/test_full_size.py and people without the released weights use it. Videos made with it are noise.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from consisid_core.checkpoint.files import DEMO_MARKER  # noqa: E402
from consisid_core.checkpoint.net_config import diffusers_config  # noqa: E402
from consisid_core.dev.tiny import DEMO_NOTE, randomize  # noqa: E402
from consisid_core.model.config import TransformerConfig  # noqa: E402
from consisid_core.model.transformer import ConsisIDTransformer  # noqa: E402

SHARD_BYTES = 5_000_000_000


def write_full_size(folder):
    """Write the shards; at most one of them is in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    config = TransformerConfig()
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in ConsisIDTransformer(config).state_dict().items()}
    shards = [[]]
    for name, shape in shapes.items():
        if sum(shapes[other].numel() * 2 for other in shards[-1]) + shape.numel() * 2 > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        state_dict = {}
        for name in names:  # One by one, because random numbers are drawn in float32.
            (state_dict[name],) = randomize({name: torch.empty(shapes[name])}, seed=len(weight_map)).values()
            state_dict[name] = state_dict[name].bfloat16()
            weight_map[name] = file
        save_file(state_dict, folder / file, {"format": "pt", DEMO_MARKER: DEMO_NOTE})
        print(f"wrote {folder / file}", flush=True)
    index = {"metadata": {"total_size": 2 * sum(map(torch.Size.numel, shapes.values()))}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(diffusers_config(config)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write, for example models/diffusion_models/full_size")
    write_full_size(parser.parse_args().folder)
