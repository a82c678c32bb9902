"""This pack against the reference on one machine, with the same random weights, in one run.

    python -m consisid_core.dev.benchmark [--what transformer|vae|face|clip|video|compile]
        [--size small|mid|full] [--device cpu|cuda] [--dtype fp32|bf16|fp8] [--repeats N]

The outputs must agree before anything is timed. The timings take turns, so that a busy machine slows both alike, and
each ratio is the median over turns. Prints a Markdown table. Needs no weights; `full` (6.2 B weights, 17,776 tokens) is
meant for an accelerator. `clip` samples the latents of a video, `video` goes from a photo to its frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from ..command_line import at_least
from ..errors import ConsisIDError
from .benchmark_clip import compare_clip, compare_video
from .benchmark_compile import compare_compiled
from .benchmark_face import compare_face
from .benchmark_transformer import SIZES, Contest, compare_transformer
from .benchmark_vae import compare_vae
from .measuring import COMPUTE_DTYPE, print_table


@torch.inference_mode()
def _compare_compiled(size, device, dtype, repeats):
    contest = Contest(size, device, dtype)
    rows = compare_compiled(contest.ours, contest.forward_of, device, dtype, repeats, "inductor")
    return "ours is compiled by torch.compile, the other column is our net as it is", rows


COMPARED = {
    "transformer": compare_transformer, "vae": compare_vae, "face": compare_face, "clip": compare_clip,
    "video": compare_video, "compile": _compare_compiled,
}  # fmt: skip
OTHER = {"compile": "not compiled"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m consisid_core.dev.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--what", choices=COMPARED, default="transformer", help="default: transformer")
    parser.add_argument("--size", choices=SIZES, help="default: full on cuda, else mid")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument("--dtype", choices=COMPUTE_DTYPE, help="default: bf16 on cuda, else fp32")
    parser.add_argument("--repeats", type=at_least(1), default=7, help="turns to time, default 7")
    args = parser.parse_args(arguments)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = args.size or ("full" if device == "cuda" else "mid")
    dtype = args.dtype or ("bf16" if device == "cuda" else "fp32")
    try:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConsisIDError(
                "PyTorch finds no CUDA device here. Leave out --device to measure on the CPU, or install a PyTorch "
                "that was built with CUDA."
            )
        title, rows = COMPARED[args.what](size, device, dtype, args.repeats)
    except ConsisIDError as error:
        raise SystemExit(f"Error: {error}") from None
    print(f"{args.what}, {size}, {dtype}, {device}: {title}; median of {args.repeats} turns.\n")
    print_table(rows, OTHER.get(args.what, "diffusers"))


if __name__ == "__main__":
    main()
