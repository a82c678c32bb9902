"""Coarse to fine (section 3.4): which part of a run a step belongs to, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .config import Optimizer, Stage


@dataclass(frozen=True)
class PlacedStage:
    """A stage and where it lies in the run."""

    name: str
    stage: Stage
    start: int
    """Its first step."""

    @property
    def end(self) -> int:
        """The step after its last."""
        return self.start + self.stage.steps


def placed_stages(stages: Mapping[str, Stage]) -> list[PlacedStage]:
    """The stages that have steps, one after the other."""
    placed, start = [], 0
    for name, stage in stages.items():
        if stage.steps:
            placed.append(PlacedStage(name, stage, start))
            start += stage.steps
    return placed


def rate_factor(step: int, steps: int, optimizer: Optimizer) -> float:
    """Part of the learning rate at a step of a stage of so many: warm-up, then a cosine with restarts
    (diffusers `optimization.get_cosine_with_hard_restarts_schedule_with_warmup`)."""
    if step < optimizer.warmup:
        return step / optimizer.warmup
    progress = (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * ((optimizer.cycles * progress) % 1)))
