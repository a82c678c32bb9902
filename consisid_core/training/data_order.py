"""Which clip is seen when, as a function of a count: nothing to save, nothing that depends on how many processes run.

The examples of a run are numbered from 0; step s has those from s * batch on. Everything about example n follows from n
and the seed, so a run that goes on, or goes on with another number of processes, sees what it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch


def generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU that these numbers and words seed."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class DataOrder:
    """All clips once in each round, in an order of its own."""

    def __init__(self, clips: int, seed: int) -> None:
        self.clips, self.seed = clips, seed
        self._round, self._order = -1, torch.empty(0)

    def clip(self, example: int) -> int:
        """The number of the clip that is example n of the run."""
        number, place = divmod(example, self.clips)
        if number != self._round:
            self._round, self._order = (
                number,
                torch.randperm(self.clips, generator=generator("order", self.seed, number)),
            )
        return int(self._order[place])


def micro_batches(
    first_step: int, last_step: int, size: int, micro: int, rank: int = 0, ranks: int = 1
) -> Iterator[list[int]]:
    """Examples of one process, micro-batch by micro-batch: size / (micro * ranks) of them are a step.

    Args:
        first_step: with which to begin; last_step: before which to end.
        size: examples of a step, of all processes; a multiple of micro * ranks.
        micro: examples of a micro-batch.
        rank: which of the processes this is.
    """
    for step in range(first_step, last_step):
        own = range(step * size + rank, (step + 1) * size, ranks)
        for start in range(0, len(own), micro):
            yield list(own[start : start + micro])
