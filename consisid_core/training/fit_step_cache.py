"""`python -m consisid_core.training fit_step_cache CACHE MODEL ...`: what ConsisID Step Cache has to know of weights.

The cases of a cache (`cases`) are sampled without skipping a step. Between steps up to four apart it is measured how
much the timestep embedding changes and how much what the blocks add, and a polynomial from one to the other is written
beside the weights. The published one is of CogVideoX-5B (`teacache_inference_consisid.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.step_cache_fit import fit_path
from ..command_line import run_command
from ..errors import ConsisIDError
from ..evaluation.results import whole_file
from ..model.step_cache import StepCacheFit, relative_change, skipped_steps
from ..model.transformer import BLOCKS_WRAPPER, BlockInputs, ConsisIDTransformer
from .cache import ClipCache
from .cases import CaseSet
from .conditions import check_sizes
from .net_options import add_device_option, chosen_device
from .sample import Sampling, add_sampling_options, chosen_sampling, sample_latents
from .sampling_net import build_transformer, read_transformer
from .validation import image_latents, predictor

_DEGREE = 4
_APART = 4
"""So many steps apart are compared: fewer steps than were sampled come to the changes of several."""
_LEAST_STEPS = 10
_THRESHOLDS = (0.1, 0.15, 0.2)
"""Those of the authors' example, to say what the node would skip."""


@dataclass(frozen=True)
class Measured:
    """Relative changes from a step to a later one, of all videos, and the embeddings [S, D] of one."""

    embedding_changes: list[float]
    output_changes: list[float]
    embeddings: torch.Tensor


class _Recorder:
    """A wrapper around the block loop that compares the first evaluation of each step with those before it."""

    def __init__(self):
        self.embedding_changes, self.output_changes, self.embeddings = [], [], []
        self.begin_video()

    def begin_video(self):
        self._before = deque(maxlen=_APART)
        self.embeddings.clear()
        self._has_step = False

    def end_step(self):
        self._has_step = False

    def __call__(self, run_blocks: Callable[[BlockInputs], torch.Tensor], inputs: BlockInputs) -> torch.Tensor:
        if self._has_step:  # The negative prompt's.
            return run_blocks(inputs)
        self._has_step = True
        before, embedding = inputs.hidden.clone(), inputs.temb[0]
        hidden = run_blocks(inputs)
        added = (hidden - before).flatten()
        for earlier_embedding, earlier in self._before:
            self.embedding_changes.append(relative_change(embedding, earlier_embedding).item())
            self.output_changes.append(relative_change(added, earlier).item())
        self._before.append((embedding, added))
        self.embeddings.append(embedding)
        return hidden


def measure(
    net: ConsisIDTransformer, cases: CaseSet, settings: Sampling, on_step: Callable[[], None] = lambda: None
) -> Measured:
    """Sample the cases and compare the steps of each.

    Args:
        net: on the device that computes.
        cases: people and prompts.
        settings: of every video.
        on_step: called after each step; it may raise.
    """
    recorder = _Recorder()
    predict = predictor(net, {"wrappers": {BLOCKS_WRAPPER: {"fit_step_cache": [recorder]}}})

    def end_step():
        recorder.end_step()
        on_step()

    for case in cases:
        recorder.begin_video()
        image = image_latents(case, net.config).to(net.proj_out.weight.device)
        sample_latents(predict(case), case.text, cases.empty_text, image, settings, end_step)
    return Measured(recorder.embedding_changes, recorder.output_changes, torch.stack(recorder.embeddings))


def fit(measured: Measured) -> tuple[StepCacheFit, float]:
    """(the polynomial of least squares, its mean absolute error)."""
    import numpy as np

    x, y = np.array(measured.embedding_changes), np.array(measured.output_changes)
    polynomial = np.poly1d(np.polyfit(x, y, _DEGREE))
    # From below the range it is taken in proportion, so it has to begin above 0.
    lowest = x[polynomial(x) > 0].min()
    error = float(np.abs(polynomial(x) - y).mean())
    return StepCacheFit(tuple(map(float, polynomial.coefficients)), float(lowest), float(x.max())), error


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training fit_step_cache",
        description="Measures how much steps of weights change, and writes beside them what ConsisID Step Cache needs. "
        "The released weights and full-size LoRAs and finetunes of them need no fit.",
    )
    parser.add_argument("cache", metavar="CACHE", type=Path, help="of the weights, with `cases`")
    parser.add_argument(
        "models", metavar="MODEL", type=Path, nargs="+", help="transformer as Load ConsisID DiT takes it: a file or a "
        "folder of shards",
    )  # fmt: skip
    add_sampling_options(parser, _LEAST_STEPS, "; those that videos will be made with, or more")
    add_device_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments. Returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    return run_command(lambda: _run(options), options.cache)


def _run(options):
    from tqdm import tqdm

    settings = chosen_sampling(options, _LEAST_STEPS)
    for path in map(fit_path, options.models):
        if path.exists():
            raise ConsisIDError(f"{path} exists already. Remove it to fit anew.")
    device = torch.device(chosen_device(options))
    cache = ClipCache(options.cache)
    cases = CaseSet(cache)
    for model in options.models:
        if_quantised = f"Fit the bf16 weights, and put a copy of their fit here as {fit_path(model)}."
        net = build_transformer(read_transformer(model, if_quantised), device)
        check_sizes(cache, net.config)
        with tqdm(total=len(cases) * options.steps, desc=model.name, unit="step", dynamic_ncols=True) as bar:
            measured = measure(net, cases, settings, bar.update)
        result, error = fit(measured)
        content = {
            "coefficients": result.coefficients, "lowest": result.lowest, "highest": result.highest,
            "videos": len(cases), "steps": options.steps, "mean_error": error,
        }  # fmt: skip
        with whole_file(fit_path(model)) as file:
            file.write_text(json.dumps(content, indent=1), encoding="utf-8")
        print(f"Wrote {fit_path(model)}; mean error {error:.3f}.")
        for threshold in _THRESHOLDS:
            skipped = skipped_steps(measured.embeddings, result, threshold, [True] * options.steps)
            print(f"At threshold {threshold} ConsisID Step Cache skips {sum(skipped)} of {options.steps} steps.")
