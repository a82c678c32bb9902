"""Options of the commands that run the nets which training does not train."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from ..face.providers import PROVIDER_CHOICES
from .encoders import EncoderPaths


def add_net_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Let a command take the places of the nets, `--device` and `--provider`. Returns the group of options."""
    nets = parser.add_argument_group("nets", "by default the released ones, where they lie in a ComfyUI")
    nets.add_argument("--comfyui", metavar="DIR", help="ComfyUI's folder, or a models folder (default: as `weights`)")
    nets.add_argument("--vae", metavar="FILE", type=Path)
    nets.add_argument("--text-encoder", metavar="PATH", type=Path, help="T5 v1.1: a file or a folder of shards")
    nets.add_argument("--tokenizer", metavar="DIR", type=Path, help="default: beside the text encoder, else ComfyUI's")
    nets.add_argument("--eva", metavar="FILE", type=Path)
    nets.add_argument("--parser", metavar="FILE", type=Path, help="BiSeNet face parser")
    nets.add_argument("--pack", metavar="DIR", type=Path, help="insightface pack")
    add_device_option(nets)
    nets.add_argument("--provider", choices=PROVIDER_CHOICES, default="auto", help="runs the face pack")
    return nets


def add_device_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Let a command take `--device`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: cuda if there is one)")


def chosen_paths(options: argparse.Namespace) -> EncoderPaths:
    """The places that were given, and the others found.

    Raises:
        ConsisIDError: naming the option and the path that does not exist.
    """
    return EncoderPaths.find(
        options.comfyui, **{field.name: getattr(options, field.name) for field in fields(EncoderPaths)}
    )


def chosen_device(options: argparse.Namespace) -> str:
    """The device that was given, else CUDA if there is one."""
    import torch

    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")
