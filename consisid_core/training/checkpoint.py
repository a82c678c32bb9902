"""Checkpoints of a run: written whole or not at all, by all processes together, read by any number of them.

    RUN_DIR/checkpoints/000250/        *.distcp and .metadata of torch.distributed.checkpoint, progress.json

Tensors go by `net.NAME`, `ema.NAME`, `exp_avg.NAME` and `exp_avg_sq.NAME`, NAME being a trained parameter's. Chance
has no state that would need a place here: it follows from the count of examples (`data_order`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import ConsisIDError, in_short
from ..weights.parts import human, is_disk_full
from .distributed import Ranks

log = logging.getLogger("consisid")

_PROGRESS = "progress.json"
_UNFINISHED = ".part"


@dataclass
class Progress:
    """How far a run is."""

    stage: str
    """The stage that the optimiser's moments belong to."""
    step: int = 0
    """Steps done."""
    updates: int = 0
    """Of the weights by the stage's optimiser: its steps that were not skipped."""
    averaged: int = 0
    """Updates of the averaged weights."""
    skipped: int = 0
    """Steps that changed nothing, because loss or gradient was no finite number."""
    attempt: int = 0
    """Times that the run went back to a checkpoint."""


def checkpoints(run_dir: Path | str) -> list[Path]:
    """The whole checkpoints of a run, the oldest first."""
    return sorted(path for path in _folder(run_dir).glob("*") if path.name.isdecimal() and (path / _PROGRESS).is_file())


def latest(run_dir: Path | str) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return (checkpoints(run_dir) or [None])[-1]


def read_progress(checkpoint: Path) -> Progress:
    """
    Raises:
        ConsisIDError: it cannot be read.
    """
    try:
        return Progress(**json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(checkpoint, error) from None


def save(run_dir: Path, state: Mapping[str, torch.Tensor], progress: Progress, keep: int, ranks: Ranks) -> Path:
    """Write a checkpoint, then remove all but the newest ones.

    Args:
        state: each process's part of the tensors.
        keep: checkpoints that stay.

    Raises:
        ConsisIDError: it could not be written; those there are stay as they are.
    """
    path = _folder(run_dir) / f"{progress.step:06d}"
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        if ranks.is_first:
            for left_over in (unfinished, path):
                shutil.rmtree(left_over, ignore_errors=True)
            unfinished.mkdir(parents=True)
        ranks.wait()
        with _quietly():
            dcp.save(dict(state), checkpoint_id=unfinished, no_dist=ranks.count == 1)
        if ranks.is_first:
            (unfinished / _PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
            os.replace(unfinished, path)
    except (OSError, RuntimeError, CheckpointException) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise _unwritten(path, state, error) from None
    ranks.wait()
    if ranks.is_first:
        for old in checkpoints(run_dir)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return path


def load(checkpoint: Path, state: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Read the tensors of a checkpoint into those of `state`, each process its part.

    Raises:
        ConsisIDError: it is damaged, or of another net.
    """
    try:
        with _quietly():
            dcp.load(dict(state), checkpoint_id=checkpoint, no_dist=ranks.count == 1)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise _unreadable(checkpoint, error) from None


def read_tensors(checkpoint: Path, kind: str) -> dict[str, torch.Tensor]:
    """Whole tensors of a checkpoint by parameter name, in one process.

    Args:
        kind: "net" or "ema"; empty if the run kept no averages.

    Raises:
        ConsisIDError: it is damaged.
    """
    try:
        with _quietly():
            entries = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
            tensors = {
                name: torch.empty(entry.size, dtype=entry.properties.dtype)
                for name, entry in entries.items()
                if name.startswith(kind + ".")
            }
            dcp.load(tensors, checkpoint_id=checkpoint, no_dist=True)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise _unreadable(checkpoint, error) from None
    return {name.removeprefix(kind + "."): tensor for name, tensor in tensors.items()}


def _folder(run_dir):
    return Path(run_dir) / "checkpoints"


def _causes(error):
    """An error, or those that the processes of a distributed checkpoint met, each with those behind it."""
    met = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    for cause in met:
        while cause is not None:
            yield cause
            cause = cause.__context__


def _unwritten(path, state, error):
    size = sum(tensor.nbytes for tensor in state.values())
    free = shutil.disk_usage(path.parent.parent).free
    # The system's error stands behind one of torch's writer, but is lost on the way from another process.
    if any(map(is_disk_full, _causes(error))) or free < size:
        why = f"the disk is full: it takes {human(size)} and {human(free)} are free"
    else:
        why = in_short(next(_causes(error)))
    return ConsisIDError(
        f"The checkpoint {path} cannot be written: {why}. Make room; the checkpoints before it are whole."
    )


def _unreadable(checkpoint, error):
    return ConsisIDError(
        f"The checkpoint {checkpoint} cannot be read ({in_short(next(_causes(error)))}). Remove this folder, and the run "
        "goes on from the checkpoint before it."
    )


def _quietly():
    """Without torch's warnings that one process is alone, which is as it should be."""
    caught = warnings.catch_warnings()
    warnings.simplefilter("ignore")
    return caught
