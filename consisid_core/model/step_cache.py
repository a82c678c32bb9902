"""TeaCache: at steps where little changes, what the blocks added at an earlier step is added again.

How much changes is guessed from the timestep embedding alone, by a polynomial that is fitted to a set of weights. So
which steps are skipped is known before the first of them. After the authors'
`tools/cache_inference/teacache_inference_consisid.py`, whose counter starts a second video of one process a step early.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .transformer import BlockInputs


@dataclass(frozen=True)
class StepCacheFit:
    """How much the output changes with the timestep embedding. Changes are relative: mean |a - b| / mean |b|."""

    coefficients: tuple[float, ...]
    """Of the polynomial, the highest power first."""
    lowest: float
    highest: float
    """The changes of the embedding for which it was fitted. Outside, a polynomial is nonsense."""

    def output_change(self, embedding_change: float) -> float:
        """What the polynomial says; below its range in proportion, above it without end, so that nothing is skipped."""
        if embedding_change > self.highest:
            return float("inf")
        x = max(embedding_change, self.lowest)
        value = 0.0
        for coefficient in self.coefficients:
            value = value * x + coefficient
        return max(value, 0.0) * embedding_change / x


PUBLISHED_FIT = StepCacheFit(
    (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339), lowest=0.01, highest=0.26
)
"""Of CogVideoX-5B, which the authors use for ConsisID. The range is ours: it is negative below 0.0075 and falls above
0.264."""


def relative_change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """mean |now - before| / mean |before|, float32, over the last dimension."""
    now, before = now.float(), before.float()
    return (now - before).abs().mean(-1) / before.abs().mean(-1)


def skipped_steps(
    embeddings: torch.Tensor, fit: StepCacheFit, threshold: float, may_skip: Sequence[bool]
) -> list[bool]:
    """Which steps take the blocks' residual of an earlier one: guessed changes are summed up until the threshold.

    Args:
        embeddings: [S, D] of the timesteps of all steps. The device is waited for once.
        fit: of the weights.
        threshold: above 0; what may change until the next step that is computed.
        may_skip: [S] False for steps that shall be computed, as the first and the last always are.
    """
    changes = relative_change(embeddings[1:], embeddings[:-1]).tolist()
    skipped, change = [False], 0.0
    for embedding_change, may in zip(changes, may_skip[1:], strict=True):
        change += fit.output_change(embedding_change)
        skipped.append(may and change < threshold)
        if not skipped[-1]:
            change = 0.0
    skipped[-1] = False
    return skipped


class ResidualCache:
    """What one sampling keeps. `run` is a wrapper around the block loop; see `transformer.BlockInputs`.

    Residuals belong to one prompt, context window and evaluation within the step (some guiders evaluate a prompt
    twice), with the identity or without. Where there is none of the kind, as at the edges of the identity's range, the
    blocks are run.
    """

    def __init__(self, skipped: Sequence[bool]) -> None:
        """
        Args:
            skipped: of `skipped_steps`. Steps beyond its end are computed.
        """
        self.skipped = skipped
        self.forwards: list[bool] = []
        """Of each forward of one prompt so far, whether it took a residual."""
        self.begin_step(0)

    def begin_step(self, step: int) -> None:
        """Say that the sampler comes to a step. Residuals older than one that is computed are freed."""
        self._skips = step < len(self.skipped) and self.skipped[step]
        self._evaluations = Counter()
        if not self._skips:
            self._residuals = {}

    def clear(self) -> None:
        """Free all residuals."""
        self._residuals = {}

    def run(self, run_blocks: Callable[[BlockInputs], torch.Tensor], inputs: BlockInputs) -> torch.Tensor:
        """The tokens [B, L + N, D] after the blocks, by a residual or by running them."""
        keys = self._keys(inputs)
        residuals = [self._residuals.get(key) for key in keys]
        skips = self._skips and all(residual is not None for residual in residuals)
        self.forwards.extend([skips] * len(keys))
        if skips:
            chunks = inputs.hidden.chunk(len(keys))
            return torch.cat(
                [chunk + residual.to(chunk.device) for chunk, residual in zip(chunks, residuals, strict=True)]
            )
        before = inputs.hidden.clone()
        hidden = run_blocks(inputs)
        residual = before.neg_().add_(hidden)
        self._residuals.update(zip(keys, residual.chunk(len(keys)), strict=True))
        return hidden

    def _keys(self, inputs):
        """For each prompt of the batch. A prompt's part may come in another batch at another step."""
        options = inputs.transformer_options
        window = getattr(options.get("context_window"), "index_list", ())
        keys = []
        for prompt in options["uuids"]:
            kind = (prompt, tuple(window), inputs.identity_tokens is not None)
            keys.append((*kind, self._evaluations[kind]))
            self._evaluations[kind] += 1
        return keys
