"""`python -m consisid_core.training export RUN_DIR OUT`: what a run has learned, as files that loaders read.

Whole weights become a folder as diffusers has it, which Load ConsisID DiT, diffusers and `[weights] transformer` of the
next run read: that is how one run goes on from a stage of another. A LoRA becomes one file with ComfyUI's names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..checkpoint.net_config import diffusers_config
from ..errors import ConsisIDError
from ..weights.parts import is_disk_full
from .model_card import model_card
from .trained import TrainedWeights, trained_weights

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Number formats to export in -> torch's names."""


def export_weights(weights: TrainedWeights, target: Path | str, dtype: str = "bf16", merge: bool = False) -> Path:
    """Write a folder: whole weights as diffusers has them, or a LoRA; and a model card. It is whole or not there.

    Args:
        weights: of `trained_weights`.
        target: folder that does not exist yet.
        dtype: a key of DTYPES.
        merge: write whole weights of a LoRA run, too.

    Returns:
        What Load ConsisID DiT or Load ConsisID LoRA takes: the file, or the folder of shards.

    Raises:
        ConsisIDError: target exists or cannot be written, a value is not finite, or a LoRA alone would not be what was
            trained.
    """
    import torch
    from safetensors.torch import save_file

    target, number_format = Path(target), getattr(torch, DTYPES[dtype])
    is_lora = bool(weights.lora) and not merge
    if is_lora and (weights.full or not weights.is_base_whole):
        raise ConsisIDError(
            f"{weights.run_dir} trained whole weights beside its LoRA, or began without face modules, so that the "
            "LoRA alone is not what was trained. Add --merge for whole weights."
        )
    tensors = _lora_tensors(weights, number_format) if is_lora else weights.merged(number_format)
    _check_finite(tensors, weights)
    with _whole_folder(target) as folder:
        if is_lora:
            save_file(tensors, folder / f"{target.name}.safetensors", {"format": "pt"})
        else:
            _save_net(folder, tensors, diffusers_config(weights.net))
        card = model_card(weights, target.name, is_lora)
        (folder / "README.md").write_text(card, encoding="utf-8")
    files = sorted(target.glob("*.safetensors"))
    return files[0] if len(files) == 1 else target


def _lora_tensors(weights, dtype):
    """By the names of ComfyUI's modules; alpha besides, or the loader would take the scale for 1."""
    import torch

    tensors = {f"diffusion_model.{name}": x.to(dtype).contiguous() for name, x in weights.lora.items()}
    modules = {name.rpartition(".lora_")[0] for name in tensors}
    return tensors | {f"{module}.alpha": torch.tensor(weights.config.lora.alpha) for module in sorted(modules)}


def _save_net(folder, tensors, config):
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(
        tensors, folder, filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
        metadata={"config": json.dumps(config)},
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _check_finite(tensors, weights):
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ConsisIDError(
            f"Step {weights.progress.step} of {weights.run_dir} has {len(broken)} tensors with values that are no "
            f"finite numbers or too large for the format ({', '.join(broken[:3])}). Take --dtype bf16 or fp32, or an "
            "earlier checkpoint with --step."
        )


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write to, which becomes the target once it is complete."""
    if os.path.lexists(target):
        raise ConsisIDError(f"{target} exists already. Name a folder that does not, or remove it first.")
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, target)
    except OSError as error:
        reason = "the disk is full" if is_disk_full(error) else error.strerror or error
        raise ConsisIDError(f"{target} cannot be written: {reason}. Make room or write elsewhere.") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training export",
        description="Writes what a run has learned: a diffusers folder of whole weights, or a LoRA with ComfyUI's "
        "names, each with a model card. The averaged weights are taken if the run keeps them.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write, for example below ComfyUI's models")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--last", action="store_true", help="the last weights instead of the averaged ones")
    parser.add_argument("--merge", action="store_true", help="of a LoRA run: whole weights, the LoRA added in")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: %(default)s")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments. Returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        weights = trained_weights(options.run_dir, options.step, not options.last)
        path = export_weights(weights, options.target, options.dtype, options.merge)
    except ConsisIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    which = "averaged" if weights.is_averaged else "last"
    print(f"Wrote {path}: the {which} weights of step {weights.progress.step}.")
    return 0
