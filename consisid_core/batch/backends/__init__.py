"""Where workers run. A backend starts them, hands each one task at a time, and tells what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..tasks import Outcome, Task


@dataclass(frozen=True)
class Event:
    """What a worker reports: it is ready (neither field), it has ended a task (outcome), or it is gone (gone)."""

    worker: str
    outcome: Outcome | None = None
    gone: str = ""
    """Why, as a sentence. A task that it had is lost."""


class Backend(Protocol):
    """Workers, each of which makes one task at a time."""

    keeps_identities: bool
    """Whether its servers take identity files, so that a face analysed by one serves all."""

    def weights(self, graph: dict) -> str:
        """A digest of the weight files that the graph names, or "" where they are out of reach."""

    def start(self, node_types: frozenset[str], weights: str) -> None:
        """Begin to start workers, whose servers have to know these nodes and hold these weights."""

    def give(self, worker: str, task: Task) -> None:
        """Hand a task to a worker that is ready or has ended its last one."""

    def events(self, seconds: float) -> list[Event]:
        """What happened since the last call; waits up to so many seconds for the first."""

    def is_dead(self) -> bool:
        """Whether there are no workers, and will be none."""

    def close(self) -> None:
        """Stop everything that `start` started, whatever state it is in."""
