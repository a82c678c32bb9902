"""Small runs of the trainer: a cache of random numbers, a net of its sizes, a config that names both."""

import json

import torch
from consisid_pack.consisid_core.checkpoint.net_config import diffusers_config
from consisid_pack.consisid_core.model.config import FacialExtractorConfig, TransformerConfig
from consisid_pack.consisid_core.model.transformer import ConsisIDTransformer
from consisid_pack.consisid_core.training.config import load_config
from safetensors.torch import save_file

from helpers.oracle import randomize
from helpers.training import random_clip, write_random_cache

NET = TransformerConfig(
    num_layers=2, num_heads=3, head_dim=16, text_embed_dim=24, time_embed_dim=16, ff_dim=192, max_text_length=12,
    sample_width=6, sample_height=4, sample_frames=3, cross_attn_heads=2, cross_attn_head_dim=8,
    facial_extractor=FacialExtractorConfig(
        id_dim=544, vit_dim=64, depth=5, heads=2, head_dim=8, num_id_tokens=2, num_queries=6, output_dim=32
    ),
)  # fmt: skip
"""For clips of `helpers.training.GEOMETRY` with texts of 12 x 24."""

SIZES = """
num_layers = 2
head_dim = 16
text_embed_dim = 24
time_embed_dim = 16
max_text_length = 12
sample_width = 6
sample_height = 4
sample_frames = 3
"""
FACE = """
[net.facial_extractor]
id_dim = 544
vit_dim = 64
depth = 5
heads = 2
head_dim = 8
output_dim = 32
"""
"""Lines of `[net]` for a new net of this kind; heads and the width of the feed-forward are missing."""


def small_clips(count=6, **options):
    settings = {"text_length": 12, "text_dim": 24, **options}
    return [random_clip(seed, person=f"person {seed % 3}", **settings) for seed in range(count)]


def write_small_cache(folder, count=6, **options):
    return write_random_cache(folder, small_clips(count, **options))


def write_small_net(folder, net=NET):
    """A transformer with random weights, in diffusers' form."""
    folder.mkdir(parents=True, exist_ok=True)
    module = ConsisIDTransformer(net)
    randomize(module)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, file)
    (folder / "config.json").write_text(json.dumps(diffusers_config(net)), encoding="utf-8")
    return file


def write_run(folder, changes="", preset="small", stages=None, size=4, micro=None, net=""):
    """A config file beside its cache and net.

    Args:
        size: of a step; micro: by default two clips, or one.
        net: lines of its table.
        changes: more TOML: tables that none of the fixed ones below have.
        stages: name -> lines of its table; without one the coarse has no steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "cache").exists():
        write_small_cache(folder / "cache")
    if not (folder / "net").exists():
        write_small_net(folder / "net")
    stages = {"coarse": "steps = 0"} | (stages or {"fine": "steps = 4\nlearning_rate = 1e-2"})
    tables = {
        "weights": 'transformer = "net/diffusion_pytorch_model.safetensors"',
        "data": 'cache = "cache"\nworkers = 0',
    }
    tables |= {"batch": f"size = {size}\nmicro = {micro or min(size, 2)}", "net": net}
    tables |= {f"stages.{name}": lines for name, lines in stages.items()}
    text = f'preset = "{preset}"\n' + "".join(f"[{name}]\n{lines}\n" for name, lines in tables.items()) + changes
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def small_config(folder, changes="", **options):
    return load_config(write_run(folder, changes, **options))


def equal_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
