"""`python -m consisid_core.training run CONFIG.toml RUN_DIR`: train, or go on with a run that was stopped."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from ..errors import ConsisIDError
from .cache import ClipCache
from .checkpoint import Progress, latest, load, read_progress, save
from .conditions import Examples, stacked
from .config import TrainingConfig, load_config
from .data_order import micro_batches
from .distributed import Ranks, joined
from .guard import Watch
from .loop import StepReport, Trainer
from .monitor import Monitor
from .net import build_net
from .net_options import chosen_device
from .run_folder import held, note
from .run_validation import RunValidation
from .stages import PlacedStage, placed_stages

log = logging.getLogger("consisid")


def run(config: TrainingConfig, run_dir: Path | str, device: str) -> Progress:
    """Train until the last stage ends or somebody asks to stop, from the last checkpoint if there is one.

    Args:
        device: "cpu" or "cuda".

    Returns:
        How far the run is; there is a checkpoint of that.

    Raises:
        ConsisIDError: something that the user can put right.
    """
    run_dir = Path(run_dir)
    with joined(device) as ranks, contextlib.ExitStack() as opened:
        if ranks.is_first:
            opened.enter_context(held(run_dir))
        cache = ClipCache(config.data.cache)
        if ranks.is_first:
            note(run_dir, config, cache.index.nets)
        ranks.wait()
        stages = placed_stages(config.stages)
        progress = _progress(run_dir, stages)
        monitor = Monitor(run_dir, progress.step, stages[-1].end, config.run.log_every, ranks)
        opened.enter_context(contextlib.closing(monitor))
        stop = opened.enter_context(_stop_request())
        validation = RunValidation.of(config, run_dir, cache, monitor, ranks)
        part = _Run(config, run_dir, cache, ranks, monitor, Watch(config.guard), stop, validation)
        while progress.step < stages[-1].end and not stop.is_set():
            placed = next(stage for stage in stages if progress.step < stage.end)
            progress = part.stage(placed, progress)
    return progress


@dataclass
class _Run:
    """What all stages of a run have in common in this process."""

    config: TrainingConfig
    run_dir: Path
    cache: ClipCache
    ranks: Ranks
    monitor: Monitor
    watch: Watch
    stop: threading.Event
    validation: RunValidation | None

    def stage(self, placed: PlacedStage, progress: Progress) -> Progress:
        """Train a stage from the newest checkpoint: to its end, until a stop, or until the run must go back.

        Every stage begins as a run goes on that was stopped, so there is one way to begin.
        """
        gc.collect()  # The net of the stage before holds itself in circles.
        net = build_net(self.config)
        net_config = net.config
        trainer = Trainer(self.config, placed, net, self.ranks)
        if newest := latest(self.run_dir):
            # The moments of another stage's optimiser stay behind.
            goes_on = progress.stage == placed.name
            load(newest, trainer.state(with_moments=goes_on), self.ranks)
            trainer.updates = progress.updates if goes_on else 0
            trainer.averaged = progress.averaged
        progress.stage = placed.name
        examples = Examples(
            self.cache, net_config, placed.stage, self.config.conditions, self.config.loss.mask_probability,
            self.config.run.seed, progress.attempt,
        )  # fmt: skip
        for report in self._steps(trainer, examples, progress.step):
            progress.step = report.step
            progress.updates, progress.averaged = trainer.updates, trainer.averaged
            progress.skipped += not report.is_finite
            self.monitor.step(report, trainer.rates(report.step - 1), progress.skipped)
            if self.watch.must_go_back(report.is_finite):
                return self._back(progress)
            ends = report.step == placed.end or report.stop_asked
            if report.stop_asked:
                self.stop.set()
            if ends:
                save(self.run_dir, trainer.state(), progress, self.config.run.keep, self.ranks)
            # What a row of skipped steps may have come from is no place to go back to.
            elif report.step % self.config.run.save_every == 0 and not self.watch.in_a_row:
                self._save_on_the_way(trainer, progress)
            if self.validation and not report.stop_asked:
                self.validation.after_step(trainer, report.step, self.stop)
            if ends:
                break
        return progress

    def _steps(self, trainer, examples, done) -> Iterator[StepReport]:
        """Train step after step to the end of the stage."""
        batch, end = self.config.batch, trainer.placed.end
        loader = torch.utils.data.DataLoader(
            examples,
            batch_sampler=micro_batches(done, end, batch.size, batch.micro, self.ranks.rank, self.ranks.count),
            num_workers=self.config.data.workers,
            collate_fn=stacked,
            pin_memory=self.ranks.device.type == "cuda",
        )
        batches = iter(loader)
        for step in range(done, end):
            yield trainer.step(islice(batches, trainer.accumulation), step, self.stop.is_set())

    def _save_on_the_way(self, trainer, progress):
        """A full disk is no reason to lose the training since the last checkpoint: the next may find room."""
        try:
            save(self.run_dir, trainer.state(), progress, self.config.run.keep, self.ranks)
        except ConsisIDError as error:
            self.monitor.say(f"warning: {error} Training goes on, and the next checkpoint is due in "
                             f"{self.config.run.save_every} steps.")  # fmt: skip

    def _back(self, progress):
        newest = latest(self.run_dir)
        self.watch.went_back(newest)
        back = _progress(self.run_dir, placed_stages(self.config.stages))
        back.attempt, back.skipped = progress.attempt + 1, progress.skipped
        self.monitor.say(
            f"Loss or gradient of {self.config.guard.skips} steps in a row were no finite numbers. The run goes back "
            f"from step {progress.step} to step {back.step}, and on with other random numbers."
        )
        self.monitor.back_to(back.step)
        return back


def _progress(run_dir, stages):
    newest = latest(run_dir)
    return read_progress(newest) if newest else Progress(stages[0].name)


@contextlib.contextmanager
def _stop_request() -> Iterator[threading.Event]:
    """Set once Ctrl-C, or SIGTERM, asks for an end after the step; a second time ends at once."""
    asked = threading.Event()

    def ask(number, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training run",
        description="Trains as CONFIG says, from a cache of `prepare`. Ctrl-C saves and stops; the same command goes "
        "on. Several GPUs: torchrun --nproc-per-node N -m consisid_core.training run ..., or accelerate launch -m.",
        epilog="Exit codes: 0 trained to the end, 1 a problem that is named, 2 wrong usage, 130 stopped.",
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="what to train on what, and how")
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder for checkpoints and TensorBoard")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default cuda where there is one")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments. Returns its exit code."""
    options = _parser().parse_args(arguments)
    device = chosen_device(options)
    logging.basicConfig(format="%(message)s")
    try:
        config = load_config(options.config)
        progress = run(config, options.run_dir, device)
    except ConsisIDError as error:
        process = os.environ.get("RANK", "0")
        print(f"error{f' in process {process}' if process != '0' else ''}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped at once; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    is_done = progress.step == placed_stages(config.stages)[-1].end
    if os.environ.get("RANK", "0") == "0":
        goes_on = f"Stopped and saved at step {progress.step}; the same command goes on from there."
        print(f"Trained to step {progress.step}: {options.run_dir}" if is_done else goes_on)
    return 0 if is_done else 130
