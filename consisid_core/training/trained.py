"""The weights that a checkpoint of a run stands for, in one process: what the run began with, and what it changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.nets import transformer_prefix
from ..checkpoint.reading import list_checkpoint
from ..errors import ConsisIDError
from ..model.config import TransformerConfig
from .checkpoint import Progress, checkpoints, read_progress, read_tensors
from .config import TrainingConfig, load_config
from .net import build_net
from .run_folder import CONFIG
from .stages import placed_stages

if TYPE_CHECKING:
    import torch


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
