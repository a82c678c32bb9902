"""Prints a Markdown table: what each part of the pack takes of an accelerator, and of the host.

    python -m consisid_core.dev.memory

Weights are the nets' parameters. Activations are "counted": added up are the tensors that live at once while the
full-size net runs on the meta device (`memory_count.py`), without what kernels and the allocator take for themselves.
What is "derived" assumes how ComfyUI casts or streams weights. Nothing here is measured on an accelerator.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch

from ..errors import ConsisIDError
from ..face.eva_clip import EvaClipVisual
from ..face.parsing import BiSeNet
from ..model.config import TransformerConfig
from ..model.transformer import ConsisIDTransformer
from ..model.vae import CogVideoXVAE
from .memory_count import forward_peak, vae_peak
from .reference import importing_diffusers

GIB = 2**30
LATENT, PIXELS = (1, 16, 13, 60, 90), (1, 3, 49, 480, 720)
T5_XXL = {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu"}

Row = tuple[str, float, float, float, str]
"""What, bytes of weights and of activations on the accelerator, bytes of weights on the host, how known."""


def parameters(module: torch.nn.Module) -> int:
    """How many numbers a net has learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def transformer_rows() -> Iterator[Row]:
    """The transformer in bf16, in fp8 and streamed, with one and two videos at a time."""
    config = TransformerConfig()
    with torch.device("meta"):
        net = ConsisIDTransformer(config)
    weights = parameters(net)
    block = parameters(net.transformer_blocks[0])
    largest = max(parameter.numel() for parameter in net.transformer_blocks.parameters())
    for videos, what in ((1, "one CFG branch at a time"), (2, "both CFG branches")):
        activations = forward_peak(config, videos, LATENT[2:])
        yield f"Transformer bf16, {what}", 2 * weights, activations, 2 * weights, "counted"
        yield f"Transformer fp8, {what}", weights, activations + 2 * largest, weights, "counted, a cast weight derived"
        yield f"Transformer bf16 streamed, {what}", 2 * block, activations, 2 * weights, "counted, weights derived"


def vae_rows() -> Iterator[Row]:
    """Our VAE, and diffusers' for comparison. Raises ConsisIDError if diffusers does not import."""
    with importing_diffusers():
        from diffusers import AutoencoderKLCogVideoX

    def build(net):
        with torch.device("meta"):
            return net().to(torch.bfloat16)

    def tile(video, tile_size):
        return (*video[:3], *(min(size, tile_size) for size in video[3:]))

    ours, reference = build(CogVideoXVAE), build(AutoencoderKLCogVideoX)
    weights = 2 * parameters(ours)
    counts = [
        ("VAE decode", ours, "decode", LATENT),
        ("VAE decode, VAE Decode (Tiled) as it stands", ours, "decode", tile(LATENT, 64)),
        ("VAE decode, tiles of 256 after running out of memory", ours, "decode", tile(LATENT, 32)),
        ("VAE encode", ours, "encode", PIXELS),
        ("VAE encode of the face, one frame", ours, "encode", (1, 3, 1, *PIXELS[3:])),
        ("VAE encode, tiles of 256 after running out of memory", ours, "encode", tile(PIXELS, 256)),
        ("diffusers' VAE decode, for comparison", reference, "decode", LATENT),
    ]
    for what, net, method, shape in counts:
        yield what, weights, vae_peak(net, method, shape), weights, "counted"
    reference.enable_tiling()
    yield (
        "diffusers' tiled VAE decode, for comparison",
        weights,
        vae_peak(reference, "decode", LATENT),
        weights,
        "counted",
    )


def other_rows() -> Iterator[Row]:
    """The text encoder and the face nets."""
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        text_encoder = 2 * parameters(T5EncoderModel(T5Config(**T5_XXL)))
        face_nets = 4 * (parameters(BiSeNet()) + parameters(EvaClipVisual()))
    yield "Text encoder T5-XXL bf16", text_encoder, math.nan, text_encoder, "weights only"
    yield "Face parsing and EVA-CLIP, float32", face_nets, math.nan, face_nets, "weights only"


def main() -> None:
    """Run the command."""
    try:
        rows = [*transformer_rows(), *vae_rows(), *other_rows()]
    except ConsisIDError as error:
        sys.exit(f"Error: {error}")
    print("49 frames of 720x480. GiB\n")
    print("| Configuration | Accelerator: weights | activations | sum | Host: weights | How known |")
    print("|---|---|---|---|---|---|")
    for what, weights, activations, host, known in rows:
        sizes = (weights, activations, weights + activations, host)
        cells = ["-" if math.isnan(size) else f"{size / GIB:.2f}" for size in sizes]
        print(f"| {what} | {' | '.join(cells)} | {known} |")


if __name__ == "__main__":
    main()
