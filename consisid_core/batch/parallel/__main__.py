"""Makes one video with several GPUs, a process on each: see `--help`."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ...command_line import INTERRUPTED, run_command
from ...errors import ConsisIDError, is_out_of_memory, lack_of_memory
from ...training.net_options import add_net_options, chosen_device, chosen_paths
from ...training.sample import add_sampling_options, chosen_sampling
from ...weights.parts import PARTS
from .layout import check_size, choose_layout

_IF_QUANTISED = "Such weights are for one GPU with little memory: name those in bf16."


def _parser():
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m consisid_core.batch.parallel",
        description="Makes OUT.mp4, one video of the person in PHOTO, with N GPUs, a process on each. Without torchrun "
        "there is one process.",
        epilog="docs/parallel.md says which layout sends how much. Exit codes: 0 the video is there, 1 a problem is "
        "named, 2 wrong usage, 130 stopped with Ctrl-C.",
    )
    parser.add_argument("photo", metavar="PHOTO", type=Path, help="of the person")
    parser.add_argument("target", metavar="OUT.mp4", type=Path, help="the video; a file that is there is kept")
    video = parser.add_argument_group("video")
    video.add_argument("--prompt", required=True, metavar="TEXT")
    video.add_argument("--negative", default="", metavar="TEXT", help="negative prompt (default: none)")
    add_sampling_options(video)
    for name, value, what in (
        ("width", 720, "pixels, a multiple of 16"),
        ("height", 480, "pixels, a multiple of 16"),
        ("frames", 49, "4n+1"),
    ):
        video.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{what} (default: {value})")
    layout = parser.add_argument_group("layout", "product of the three: the number of processes. Default: see the docs")
    layout.add_argument("--cfg-split", type=int, metavar="N", help="2: prompt and negative prompt at the same time")
    layout.add_argument("--ring", type=int, metavar="N", help="split the sequence, keys and values travel")
    layout.add_argument("--ulysses", type=int, metavar="N", help="split the sequence, in attention the heads")
    nets = add_net_options(parser)
    nets.add_argument("--transformer", metavar="PATH", type=Path, help="a file or a folder of shards")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments. Returns its exit code."""
    from .processes import is_lost_connection, joined, sure_to_end

    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    rank, count = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))

    def run():
        try:
            with joined(chosen_device(options)) as device:
                try:
                    _run(options, device)
                except BaseException:
                    ending()  # The others may never answer what leaving them asks.
                    raise
        except SystemExit as ended:
            return ended.code
        except KeyboardInterrupt:
            if rank == 0:
                raise
            return INTERRUPTED
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise lack_of_memory(f"This video does not fit process {rank} of {count}") from None
            if is_lost_connection(error):
                raise ConsisIDError(
                    f"Process {rank} of {count} stops, because another process of this run has ended. What stands "
                    "above says why; torchrun's report below names the process."
                ) from None
            raise

    with sure_to_end(rank, count) as ending:
        return run_command(run, options.target, "no video was written")


def _run(options, device):
    """The work of one process."""
    import torch
    import torch.distributed as dist
    from tqdm import tqdm

    from ...training.diffusion import LATENT_SCALE
    from ...training.encoders import load_vae
    from ...training.pictures import write_video
    from ...training.sample import sample_latents, to_pixels
    from ...training.sampling_net import build_transformer, read_transformer
    from ...training.validation import image_latents, predictor
    from .processes import from_first, join_mesh
    from .rows import decode_rows
    from .sequence import SequenceParallel, split_guidance

    layout, transformer, vae_file, request = from_first(lambda: _prepare(options, device), options.target)
    is_first = dist.get_rank() == 0
    if is_first:
        print(f"Layout: {layout}.")
    mesh = join_mesh(layout, device)
    sequence = SequenceParallel(mesh)
    net = build_transformer(read_transformer(transformer, _IF_QUANTISED), device, sequence.attention)
    predict = predictor(net, sequence.transformer_options)(request.person)
    settings = chosen_sampling(options)
    with tqdm(total=options.steps, unit="step", dynamic_ncols=True, disable=not is_first) as bar:
        latents = sample_latents(
            predict, request.text, request.negative, image_latents(request.person, net.config).to(device), settings,
            bar.update, split_guidance(mesh),
        )  # fmt: skip
    if not latents.isfinite().all():
        raise ConsisIDError(f"The sampled latent is not finite: {transformer} is damaged or overflows.")
    del net, predict
    vae = load_vae(vae_file, device, "Choose ConsisID's: vae/diffusion_pytorch_model.safetensors")
    with torch.no_grad():
        video = decode_rows(vae, (latents[None] / LATENT_SCALE).to(next(vae.parameters())))[0]
    if is_first:
        print(f"Wrote {_write(to_pixels(video).numpy(), options.target, write_video)}.")


def _prepare(options, device):
    """What the first process finds out for all: (layout, transformer's path, VAE's path, request)."""
    import torch.distributed as dist

    from ...checkpoint.model_folders import ModelFolders
    from ...training.cache import Geometry
    from ...training.sampling_net import read_transformer
    from .request import make_request

    _check(options)
    paths = chosen_paths(options)
    transformer = options.transformer
    if transformer is None:
        (part,) = (part for part in PARTS if part.name == "transformer")
        transformer = part.place(ModelFolders(options.comfyui))
    if not transformer.exists():
        raise ConsisIDError(
            f"There is no transformer at {transformer}. Name one with --transformer, or fetch the released weights: "
            "python -m consisid_core.weights download"
        )
    config = read_transformer(transformer, _IF_QUANTISED).config
    layout = choose_layout(
        dist.get_world_size(), config.num_heads, options.guidance != 1, options.cfg_split, options.ring, options.ulysses
    )
    geometry = Geometry(options.width, options.height, options.frames)
    check_size(layout, config, geometry.latent_size)
    prompts = options.prompt, options.negative
    request = make_request(options.photo, prompts, geometry, config, paths, device, options.provider)
    return layout, transformer, paths.vae, request


def _check(options):
    if os.path.lexists(options.target):
        raise ConsisIDError(f"{options.target} exists already. Name a file that does not.")
    if not options.target.absolute().parent.is_dir():
        raise ConsisIDError(f"{options.target.absolute().parent} is not a folder. Make it, or name another.")
    chosen_sampling(options)
    for name in ("cfg_split", "ring", "ulysses"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ConsisIDError(f"--{name.replace('_', '-')} must be 1 or more.")
    if not 0 <= options.seed < 2**64 - 1:
        raise ConsisIDError(f"--seed must be 0 to 2^64 - 2, not {options.seed}.")
    for name in ("width", "height"):
        if (value := getattr(options, name)) % 16 or value < 16:
            raise ConsisIDError(
                f"--{name} {value} is no multiple of 16; the nearest is {max(16, round(value / 16) * 16)}."
            )
    if options.frames % 4 != 1 or options.frames < 1:
        nearest = max(1, round((options.frames - 1) / 4) * 4 + 1)
        raise ConsisIDError(f"--frames {options.frames} is not 4n+1; the nearest is {nearest}.")


def _write(pixels, target, write_video):
    """Write beside the target, then give it its name, or one with a number if that was taken meanwhile."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        write_video(pixels, unfinished)
        for number in itertools.count(1):
            path = target if number == 1 else target.with_stem(f"{target.stem}_{number}")
            if not os.path.lexists(path):
                unfinished.rename(path)
                return path
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: the usual end may wait for libraries that wait for a process which is gone.
    os._exit(code)
