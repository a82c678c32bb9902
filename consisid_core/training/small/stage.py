"""What all stages share: nets in training with their averages, a budget of time, checkpoints and resume.

WORK/STAGE.pt       a stage's nets, averages and optimiser, and how long it trained; replaced every few minutes
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ConsisIDError, in_short
from ...evaluation.results import whole_file

log = logging.getLogger("consisid")

SAVE_SECONDS = 120.0
REPORT_SECONDS = 60.0
_SKIPS = 20
"""So many steps in a row without a finite gradient end a run."""
_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"


@dataclass(frozen=True)
class Budget:
    """How long a stage trains in all, over every start: whichever ends first."""

    seconds: float = math.inf
    steps: float = math.inf

    def part(self, seconds: float, steps: int) -> float:
        """How much of it is used, 0 to 1."""
        return min(1.0, max(seconds / self.seconds, steps / self.steps))


class Task:
    """A net in training: its optimiser, and the averaged weights, which are the result.

    A stage is a subclass with `name`, `step` and `report`.
    """

    name: str

    def __init__(self, net: nn.Module, device: str, rate: float, betas: tuple[float, float], decay: float) -> None:
        """
        Args:
            net: in float32.
            device: where it trains. On CUDA in bfloat16, the weights themselves in float32.
            rate: highest learning rate.
            betas: of AdamW.
            decay: of the averages, reached slowly.
        """
        self.device, self.rate, self.decay = device, rate, decay
        self.net = net.to(device)
        self.averaged = copy.deepcopy(self.net).eval().requires_grad_(False)
        matrices = [x for x in self.net.parameters() if x.ndim > 1]
        others = [x for x in self.net.parameters() if x.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=device.startswith("cuda"))
        self.updates = 0
        self._skipped = 0

    def step(self, part: float) -> None:
        """One update.

        Args:
            part: of the stage that is done, 0 to 1.
        """
        raise NotImplementedError

    def report(self) -> str:
        """How good the averaged weights are, on people who were held out."""
        raise NotImplementedError

    def precision(self) -> AbstractContextManager:
        """bfloat16 where that is faster."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda"))

    def update(self, loss: torch.Tensor, factor: float) -> None:
        """Follow a loss.

        Args:
            loss: a number.
            factor: on the learning rate.

        Raises:
            ConsisIDError: gradients were no finite numbers many times in a row.
        """
        self.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        if not norm.isfinite():
            self._skipped += 1
            if self._skipped >= _SKIPS:
                raise ConsisIDError(
                    f"The stage {self.name} met {_SKIPS} gradients in a row that are no finite numbers. Delete its "
                    "checkpoint, and start again with another --seed."
                )
            return
        self._skipped = 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.step()
        self.updates += 1
        self.average()

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the net, without earlier ones."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    @torch.no_grad()
    def average(self) -> None:
        """Move the averages after an update."""
        decay = min(self.decay, self.updates / (self.updates + 20))
        averages, weights = list(self.averaged.parameters()), list(self.net.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.averaged.buffers(), self.net.buffers(), strict=True):
            average.copy_(buffer)

    def state(self) -> dict[str, Any]:
        """All that a resume needs; tensors on the CPU."""
        return {
            "net": _on_cpu(self.net.state_dict()),
            "averaged": _on_cpu(self.averaged.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. One of weights alone begins with a new optimiser."""
        self.averaged.load_state_dict(state["averaged"])
        self.net.load_state_dict(state.get("net", state["averaged"]))
        self.updates = state.get("updates", 0)
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])


def train(task: Task, work: Path, budget: Budget) -> None:
    """Run a stage to the end of its budget, from its checkpoint if there is one. Ctrl-C saves first. Nothing is done if
    the checkpoint says that it is finished, whatever the budget.

    Raises:
        ConsisIDError: the checkpoint cannot be read or is of another net.
    """
    from tqdm import tqdm

    seconds, steps = 0.0, 0
    if stored := read_state(work, task.name):
        try:
            task.load(stored)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConsisIDError(
                f"{_file(work, task.name)} is of another net ({in_short(error)}). Name a new folder."
            ) from None
        seconds, steps = stored.get("seconds", 0.0), stored.get("steps", 0)
        if stored.get("is_finished"):
            return
    part = budget.part(seconds, steps)
    interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
    with tqdm(total=1.0, initial=part, desc=task.name, bar_format=_BAR, mininterval=interval) as bar:
        began = saved = reported = time.monotonic()
        before = seconds
        try:
            while part < 1:
                task.step(part)
                now, steps = time.monotonic(), steps + 1
                seconds = before + now - began
                bar.update(budget.part(seconds, steps) - part)
                part = budget.part(seconds, steps)
                if now - reported > REPORT_SECONDS or part == 1:
                    bar.write(f"{task.name}, step {steps}: {task.report()}")
                    reported = now
                if now - saved > SAVE_SECONDS:
                    write_state(work, task.name, {**task.state(), "seconds": seconds, "steps": steps})
                    saved = now
        finally:
            if steps:
                write_state(work, task.name, {**task.state(), "seconds": seconds, "steps": steps})


def read_state(work: Path, stage: str) -> dict[str, Any] | None:
    """A stage's checkpoint, or None.

    Raises:
        ConsisIDError: it is damaged.
    """
    file = _file(work, stage)
    if not file.is_file():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    # torch raises whatever its unpickler meets.
    except Exception as error:
        raise ConsisIDError(
            f"{file} cannot be read ({in_short(error)}). Delete it, and this stage begins again."
        ) from None


def write_state(work: Path, stage: str, state: Mapping[str, Any]) -> None:
    """Replace a stage's checkpoint, whole or not at all."""
    work.mkdir(parents=True, exist_ok=True)
    with whole_file(_file(work, stage)) as unfinished:
        torch.save(dict(state), unfinished)


def warmed(updates: int, warmup: int) -> float:
    """Factor on the learning rate at the start."""
    return min(1.0, (updates + 1) / warmup)


def _file(work, stage):
    return work / f"{stage}.pt"


def _on_cpu(state_dict):
    return {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
