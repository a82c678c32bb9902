"""Weight files through ComfyUI's own reader, with its progress bar and its cancel."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NoReturn

import comfy.model_management
import comfy.utils

from ..checkpoint.files import NOTE
from ..checkpoint.finite import check_finite
from ..checkpoint.reading import Checkpoint, read_checkpoint
from ..errors import ConsisIDError


def read_weights(path: Path | str) -> Checkpoint:
    """`read_checkpoint` by ComfyUI's reader. Logs one line if the file holds random demo weights, or has a note.

    Args:
        path: a weight file, or a folder of shards.

    Raises:
        ConsisIDError: as `read_checkpoint`.
    """
    bar = comfy.utils.ProgressBar(1)

    def on_unpacked(done, total):
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    checkpoint = read_checkpoint(path, _load_torch_file, on_unpacked)
    if checkpoint.is_demo:
        log_demo_weights(path)
    if note := checkpoint.metadata.get(NOTE):
        log_note(path, note)
    return checkpoint


def log_demo_weights(path: Path | str) -> None:
    """Say that a file holds random demo weights."""
    logging.getLogger("consisid").warning(
        "%s holds random demo weights: results are noise. See the pack's README for the released weights.", path
    )


def log_note(path: Path | str, note: str) -> None:
    """Say what a file says of itself."""
    logging.getLogger("consisid").info("%s: %s", Path(path).name, note)


def refuse_broken_result(what: str, path: Path | str, remedy: str) -> NoReturn:
    """Explain a result with NaN or infinity, by looking at every value of the weights that it comes from.

    This is not done when they are loaded, because then all of a mapped file would be read: 12 GB of the transformer.

    Args:
        what: the result, to begin the sentence.
        path: of the weights.
        remedy: what helps, if the weights are sound.

    Raises:
        ConsisIDError: always, naming broken parameters or the remedy.
    """
    check_finite(
        read_checkpoint(path, _load_torch_file), comfy.model_management.throw_exception_if_processing_interrupted
    )
    raise ConsisIDError(
        f"{what} holds values that are not finite numbers (NaN or infinity), though the weights in {path} do not. "
        f"{remedy}"
    )


def _load_torch_file(file):
    return comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
