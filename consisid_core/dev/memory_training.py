"""Prints a Markdown table: what training the released size takes of each GPU, with one clip on it at a time.

    python -m consisid_core.dev.memory_training

Weights, gradients, moments and averages are those of the trainer's own net in its own number formats. Activations are
counted on the meta device (`memory_count.py`): a forward and a backward pass with checkpointed blocks. Both leave out
what kernels and the allocator take for themselves. With `--measure` three steps are trained on a CUDA device instead,
with random weights, and torch's own figures are printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..model.config import TransformerConfig
from ..model.transformer import ConsisIDTransformer
from ..training.conditions import DRAWS, Example
from ..training.config import TrainingConfig, load_config
from ..training.distributed import Ranks, spread
from ..training.loop import Trainer
from ..training.net import Denoiser, Operations, add_lora, learning_names, set_formats, trained_names
from ..training.stages import placed_stages
from .memory_count import MemoryCounter, fused_attention

GIB = 2**30
LATENT = (13, 60, 90)
EVA_TOKENS = 577
RUNS = {
    "Full, `paper`": 'preset = "paper"\nnet = {}\n[stages.coarse]\nsteps = 0\n',
    "Full, all in bfloat16, no averages": 'preset = "paper"\nnet = {}\n[memory]\nprecision = "bfloat16"\n'
    "[optimizer]\nema_decay = 0.0\n[stages.coarse]\nsteps = 0\n",
    "LoRA, rank 128, `lora`": 'preset = "lora"\n[lora]\nrank = 128\nalpha = 128\n',
    "LoRA, rank 32, `lora`": 'preset = "lora"\n',
}
"""What a row trains -> its config."""


def read_run(text: str) -> TrainingConfig:
    """A config of this TOML."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_text(text, encoding="utf-8")
        return load_config(file)


def build(config: TrainingConfig, device: str, layers: int | None = None, **options) -> ConsisIDTransformer:
    """The released net, or one of fewer blocks, as a run has it; bf16 without values.

    Args:
        options: of the net's constructor.
    """
    sizes = TransformerConfig() if layers is None else dataclasses.replace(TransformerConfig(), num_layers=layers)
    net = ConsisIDTransformer(sizes, device=device, dtype=torch.bfloat16, operations=Operations, **options)
    if config.lora.rank:
        add_lora(net, config.lora)
    return net


def kept_bytes(config: TrainingConfig) -> dict[str, int]:
    """Bytes that stay on a GPU through a run, by what they are, where one GPU has all of them."""
    net = build(config, "meta")
    trained = set(trained_names(net, config.stages))
    stage = placed_stages(config.stages)[-1].stage
    learning = set(learning_names(net, stage))
    set_formats(net, "", trained, learning, config.memory)
    sizes = {name: parameter for name, parameter in net.named_parameters()}
    own = sum(sizes[name].nbytes for name in learning)
    return {
        "weights": sum(parameter.nbytes for parameter in sizes.values()),
        "gradients": own,
        "moments": 2 * own,
        "averages": 4 * sum(sizes[name].numel() for name in trained) if config.optimizer.ema_decay else 0,
    }


def step_peak(config: TrainingConfig, layers: int | None = None) -> int:
    """Bytes that a clip's forward and backward pass hold at most beside what is kept, gradients left out.

    Args:
        layers: to so many blocks the net is cut.
    """
    # Autocast computes by bf16 copies of float32 weights: the same activations as of bf16 weights.
    memory = dataclasses.replace(config.memory, precision="bfloat16")
    net = build(config, "meta", layers, attention=fused_attention)
    trained = set(trained_names(net, config.stages))
    learning = set(learning_names(net, placed_stages(config.stages)[-1].stage))

    def formats(module, name):
        set_formats(module, name, trained, learning, memory)

    denoiser = spread(Denoiser(net), memory, Ranks(0, 1, torch.device("meta")), formats)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
    clip = example("meta", torch.bfloat16)
    inputs = torch.cat((clip.latents, clip.image_latents), dim=1)
    with MemoryCounter() as counted:
        velocity = denoiser(
            inputs, clip.timestep, clip.text, clip.id_embedding, clip.hidden_states, clip.kept_tokens,
            clip.identity_scale,
        )  # fmt: skip
        velocity.float().square().mean().backward()
    return counted.peak


def _drop_gradient(parameter):
    parameter.grad = None


def example(device: str, dtype: torch.dtype) -> Example:
    """A clip of random numbers of the released size."""
    config = TransformerConfig()
    face = config.facial_extractor

    def randn(*shape):
        return torch.randn(1, *shape, device=device, dtype=dtype)

    def ones(*shape):
        return torch.ones(1, *shape, device=device)

    return Example(
        latents=randn(16, *LATENT), noise=randn(16, *LATENT), timestep=torch.full((1,), 500, device=device),
        image_latents=randn(16, *LATENT), text=randn(config.max_text_length, config.text_embed_dim),
        mask=ones(*LATENT), id_embedding=randn(face.id_dim),
        hidden_states=randn(face.num_scales, EVA_TOKENS, face.vit_dim), kept_tokens=ones(face.num_queries),
        identity_scale=ones(), drawn=torch.zeros(1, len(DRAWS), device=device),
    )  # fmt: skip


def gathered_bytes() -> int:
    """Bytes that FSDP holds whole beside a GPU's slices: two blocks in bf16, the gradients of one in bf16 and float32,
    and what belongs to no block."""
    with torch.device("meta"):
        net = ConsisIDTransformer(TransformerConfig())
    block = sum(parameter.numel() for parameter in net.transformer_blocks[0].parameters())
    parts = ("patch_embed", "time_embedding", "norm_final", "norm_out", "proj_out")
    others = sum(parameter.numel() for name in parts for parameter in getattr(net, name).parameters())
    return 2 * 2 * block + (2 + 4) * block + 2 * others


def table() -> list[str]:
    """The lines of the table, in GiB."""
    lines = [
        "| Run | Weights | Gradients | Moments | Averages | A step | 1 GPU | each of 2 | each of 8 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, text in RUNS.items():
        config = read_run(text)
        kept, peak = kept_bytes(config), step_peak(config)
        total = sum(kept.values())
        if config.memory.sharding == "fsdp":
            sliced = [total / count + gathered_bytes() + peak for count in (2, 8)]
        else:
            sliced = [total + peak] * 2
        cells = [*kept.values(), peak, total + peak, *sliced]
        lines.append(f"| {name} | {' | '.join(f'{size / GIB:.1f}' for size in cells)} |")
    return lines


def measure(name: str) -> str:
    """Train three steps of a row on a CUDA device, and say what they took."""
    config = read_run(RUNS[name] + "\n[batch]\nsize = 1\nmicro = 1\n")
    device = torch.device("cuda", 0)
    net = build(config, "cuda")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.02)
    trainer = Trainer(config, placed_stages(config.stages)[-1], net, Ranks(0, 1, device))
    batch = example("cpu", torch.float32)
    trainer.step([batch], 0)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.monotonic()
    reports = [trainer.step([batch], step) for step in (1, 2)]
    torch.cuda.synchronize()
    seconds = (time.monotonic() - began) / 2
    sizes = torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB
    where = torch.cuda.get_device_name()
    finite = all(report.is_finite for report in reports)
    return f"| {name} | {sizes[0]:.1f} | {sizes[1]:.1f} | {seconds:.2f} | {where}{'' if finite else ', not finite'} |"


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m consisid_core.dev.memory_training", description=__doc__)
    parser.add_argument("--measure", choices=RUNS, help="this row, on a CUDA device")
    options = parser.parse_args(arguments)
    if options.measure:
        print("| Run | Allocated, GiB | Reserved, GiB | Seconds a step | Device |\n|---|---|---|---|---|")
        print(measure(options.measure))
        return 0
    print("49 frames of 720x480, one clip at a time. GiB\n")
    print("\n".join(table()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
