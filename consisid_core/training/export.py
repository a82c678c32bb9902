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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.net_config import diffusers_config
from ..checkpoint.nets import transformer_prefix
from ..checkpoint.reading import list_checkpoint
from ..errors import ConsisIDError
from ..model.config import TransformerConfig
from ..weights.parts import is_disk_full
from .checkpoint import Progress, checkpoints, read_progress, read_tensors
from .config import TrainingConfig, load_config
from .run_folder import CONFIG
from .stages import placed_stages

if TYPE_CHECKING:
    import torch

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Number formats to export in -> torch's names."""


@dataclass(frozen=True, eq=False)
class TrainedWeights:
    """What a checkpoint of a run stands for."""

    run_dir: Path
    config: TrainingConfig
    progress: Progress
    is_averaged: bool
    """Whether the tensors are averages over training (EMA)."""
    net: TransformerConfig
    """Without the high-frequency half if nothing has trained it yet."""
    base: dict[str, torch.Tensor]
    """What the run began with, all of the net, in the format of its file; without the LoRA."""
    is_base_whole: bool
    """Whether all of it came from a file."""
    full: dict[str, torch.Tensor]
    """What stands in the place of some of it."""
    lora: dict[str, torch.Tensor]
    """`MODULE.lora_A.weight` [rank, in] and `MODULE.lora_B.weight` [out, rank]."""

    def merged(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The whole net by diffusers' names, the LoRA added in."""
        weights = {name: self.full.get(name, tensor).to(dtype) for name, tensor in self.base.items()}
        scale = self.config.lora.alpha / self.config.lora.rank if self.lora else 0
        for name, down in self.lora.items():
            module, is_down, _ = name.partition(".lora_A.")
            if is_down:
                weight, up = f"{module}.weight", self.lora[f"{module}.lora_B.weight"]
                plain = self.full.get(weight, self.base[weight]).float()
                weights[weight] = (plain + scale * (up.float() @ down.float())).to(dtype)
        return weights


def trained_weights(run_dir: Path | str, step: int | None = None, averaged: bool = True) -> TrainedWeights:
    """The weights of a run's checkpoint.

    Args:
        run_dir: of the run.
        step: of the checkpoint; the newest if None.
        averaged: take the averages, if the run keeps any.

    Raises:
        ConsisIDError: no run or no such checkpoint is there, or the weights that the run began with are gone.
    """
    from .net import build_net

    run_dir = Path(run_dir)
    if not (run_dir / CONFIG).is_file():
        raise ConsisIDError(f"{run_dir} holds no training run (no {CONFIG}). Name the folder that `run` was given.")
    config = load_config(run_dir / CONFIG)
    checkpoint = _choose(run_dir, step)
    progress = read_progress(checkpoint)
    is_averaged = averaged and config.optimizer.ema_decay > 0
    tensors = read_tensors(checkpoint, "ema" if is_averaged else "net")
    # Where a LoRA stands beside a layer, PEFT puts a part into both names.
    tensors = {name.replace(".base_layer.", ".").replace(".default.", "."): x for name, x in tensors.items()}
    net = build_net(replace(config, lora=replace(config.lora, rank=0)))
    is_base_whole = _has_face_modules(config.weights.transformer)
    has_learned = is_base_whole or any(
        placed.stage.identity_tokens and placed.start < progress.step for placed in placed_stages(config.stages)
    )
    return TrainedWeights(
        run_dir, config, progress, is_averaged,
        net.config if has_learned else replace(net.config, high_frequency=False),
        net.state_dict(), is_base_whole,
        {name: x for name, x in tensors.items() if ".lora_" not in name},
        {name: x for name, x in tensors.items() if ".lora_" in name},
    )  # fmt: skip


def _choose(run_dir, step):
    there = checkpoints(run_dir)
    if not there:
        raise ConsisIDError(f"{run_dir} holds no checkpoint yet. Let it train to its first one.")
    if step is None:
        return there[-1]
    if chosen := [path for path in there if int(path.name) == step]:
        return chosen[0]
    steps = ", ".join(str(int(path.name)) for path in there)
    raise ConsisIDError(f"{run_dir} holds no checkpoint of step {step}; it has those of {steps}.")


def _has_face_modules(file):
    if not file:
        return False
    names = list_checkpoint(file).tensors
    return any(name.startswith(transformer_prefix(names) + "local_facial_extractor.") for name in names)


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

    from .model_card import model_card

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
