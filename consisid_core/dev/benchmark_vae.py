"""Our VAE against diffusers' untiled one, for the benchmark."""

from __future__ import annotations

import torch
from torch import nn

from ..model.vae import CHUNK_VALUES, CogVideoXVAE, Pass
from ..training.diffusion import LATENT_SCALE
from .measuring import AGREEMENT, Row, memory_row, require_agreement, stored_dtype, timed_rows, timings
from .random_weights import randomize
from .reference import importing_diffusers

NETS = {"small": ((32, 32, 64, 64), 1), "mid": ((128, 256, 256, 512), 3), "full": ((128, 256, 256, 512), 3)}
"""Widths of the frame sizes, and residual blocks of each."""
VIDEOS = {"small": (9, 16, 24), "mid": (9, 48, 64), "full": (49, 480, 720)}
"""Frames, height and width; to an odd number of latent frames, for diffusers gives more frames of an even one."""

ALL_AT_ONCE = 2**30
"""A chunk for a device with much memory; CHUNK_VALUES is that for one with little."""


def build_vaes(size: str, device: str, dtype: torch.dtype) -> tuple[CogVideoXVAE, nn.Module]:
    """Our net and diffusers' on the same random weights.

    Raises:
        ConsisIDError: diffusers does not import.
    """
    with importing_diffusers():
        from diffusers import AutoencoderKLCogVideoX
    widths, layers = NETS[size]
    with torch.device("meta"):
        theirs = AutoencoderKLCogVideoX(block_out_channels=widths, layers_per_block=layers, scaling_factor=LATENT_SCALE)
        ours = CogVideoXVAE(widths, layers)
    theirs = theirs.to(dtype).to_empty(device=device)
    randomize(theirs.state_dict(), seed=0)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return ours.requires_grad_(False).eval(), theirs.requires_grad_(False).eval()


@torch.inference_mode()
def compare_vae(size: str, device: str, dtype: str, repeats: int) -> tuple[str, list[Row]]:
    """Measure decode and encode, with memory for all frames at once and with little.

    Returns:
        (what was measured, rows).

    Raises:
        ConsisIDError: the nets disagree, diffusers does not import, or the VAE knows no such dtype.
    """
    stored = stored_dtype("VAE", dtype)
    ours, theirs = build_vaes(size, device, stored)
    frames, height, width = VIDEOS[size]
    generator = torch.Generator(device).manual_seed(1)

    def randn(*shape):
        return torch.randn(1, *shape, generator=generator, device=device).to(stored)

    latents = randn(16, (frames + 3) // 4, height // 8, width // 8)
    pixels = randn(3, frames, height, width).clamp(-1, 1)
    methods = {
        "decode": (lambda chunk: ours.decode(latents, Pass(chunk)), lambda: theirs.decode(latents).sample),
        "encode": (lambda chunk: ours.encode(pixels, Pass(chunk)), lambda: theirs.encode(pixels).latent_dist.mode()),
    }
    rows = []
    for what, (mine, reference) in methods.items():
        calls = {"": lambda mine=mine: mine(ALL_AT_ONCE), " in small chunks": lambda mine=mine: mine(CHUNK_VALUES)}
        expected = reference()
        for call in calls.values():
            require_agreement("VAEs", call(), expected, AGREEMENT[dtype], what)
        *times, reference_times = timings([*calls.values(), reference], device, repeats)
        for name, turns in zip(calls, times, strict=True):
            rows += timed_rows(f"{what}{name}", turns, reference_times, device)
        rows += [memory_row(f"{what}{name}", call, reference, device) for name, call in calls.items()]
    return f"{frames} frames of {width}x{height}, widths {', '.join(map(str, NETS[size][0]))}", rows
