"""Seeing a run learn: TensorBoard, and a bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import optional_library
from ..model.schedule import NUM_TRAIN_TIMESTEPS
from .conditions import DRAWS
from .distributed import Ranks

if TYPE_CHECKING:
    from .loop import StepReport

BUCKETS = 10
"""Parts of the timesteps whose losses are shown apart: a loss says little without its timestep."""


class Monitor:
    """Averages over the steps between two entries, over all processes; only the first process writes them."""

    def __init__(self, run_dir: Path, step: int, steps: int, every: int, ranks: Ranks) -> None:
        """
        Args:
            step: steps done; later entries of an interrupted run are hidden.
            steps: of the whole run.
            every: so many steps make an entry.

        Raises:
            ConsisIDError: TensorBoard is not installed.
        """
        self.every, self.ranks = every, ranks
        self.writer = None
        with optional_library("Training"):
            from torch.utils.tensorboard import SummaryWriter
            from tqdm import tqdm
        if ranks.is_first:
            self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not ranks.is_first, dynamic_ncols=True)
        self._clear()

    def step(self, report: StepReport, rates: Mapping[str, float], skipped: int) -> None:
        """Take in a step.

        Args:
            rates: learning rate of each group of parameters, by its factor.
            skipped: steps of the run that changed nothing.
        """
        buckets = report.timesteps * BUCKETS // NUM_TRAIN_TIMESTEPS
        is_number = report.losses.isfinite()
        self._loss.index_add_(0, buckets[is_number], report.losses[is_number].double())
        self._count.index_add_(0, buckets[is_number], torch.ones(int(is_number.sum()), dtype=torch.float64))
        self._drawn += report.drawn.double().sum(0)
        self._clips += len(report.losses)
        self._norms += [report.gradient_norm] if report.is_finite else []
        self.bar.update()
        self.bar.set_postfix_str(f"{report.stage}, loss {report.loss:.4f}, skipped {skipped}")
        if report.step % self.every == 0:
            self._write(report, rates, skipped)
            self._clear()

    def say(self, text: str) -> None:
        """A line for the user that the bar does not overwrite."""
        if self.ranks.is_first:
            self.bar.write(text)

    def back_to(self, step: int) -> None:
        """The run goes on from an earlier step."""
        self.bar.n = step
        self.bar.refresh()
        self._clear()

    def close(self) -> None:
        """Write what is left, and leave the bar as it stands."""
        self.bar.close()
        if self.writer:
            self.writer.close()

    def _clear(self):
        self._loss = torch.zeros(BUCKETS, dtype=torch.float64)
        self._count = torch.zeros(BUCKETS, dtype=torch.float64)
        self._drawn = torch.zeros(len(DRAWS), dtype=torch.float64)
        self._clips, self._norms, self._began = 0, [], time.monotonic()

    def _write(self, report, rates, skipped):
        seconds = time.monotonic() - self._began
        sums = self.ranks.sum(*self._loss, *self._count, *self._drawn, self._clips)
        losses, counts, drawn, clips = sums[:BUCKETS], sums[BUCKETS : 2 * BUCKETS], sums[2 * BUCKETS : -1], sums[-1]
        if self.writer is None:
            return
        values = {"loss/all": sum(losses) / sum(counts)} if any(counts) else {}
        width = NUM_TRAIN_TIMESTEPS // BUCKETS
        for i, (loss, count) in enumerate(zip(losses, counts, strict=True)):
            if count:
                values[f"loss/timesteps {i * width:03d}-{(i + 1) * width - 1:03d}"] = loss / count
        if self._norms:
            values["gradient/norm"] = sum(self._norms) / len(self._norms)
        values["gradient/skipped steps"] = skipped
        values |= {f"learning rate/{name}": rate for name, rate in rates.items()}
        values["speed/clips a second"] = clips / seconds
        values |= {f"conditions/{name}": count / clips for name, count in zip(DRAWS, drawn, strict=True)}
        for name, value in values.items():
            self.writer.add_scalar(name, value, report.step)
        self.writer.flush()
