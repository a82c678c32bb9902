"""Workers on ComfyUI servers that somebody else runs."""

from __future__ import annotations

from ..server import ForeignServer
from ..worker import Worker
from .threads import Threads


class Urls(Threads):
    """A backend of servers that are asked. Their weights are out of reach, and so are their folders."""

    keeps_identities = False

    def __init__(self, urls: list[str], stall: float) -> None:
        """
        Args:
            urls: addresses of the servers.
            stall: as for `Worker`.
        """
        super().__init__()
        self.urls, self.stall = urls, stall

    def weights(self, graph: dict) -> str:
        """As `Backend.weights`: nobody can say."""
        return ""

    def start(self, node_types: frozenset[str], weights: str) -> None:
        """As `Backend.start`."""
        self.launch({url: Worker(ForeignServer(url), node_types, self.stall) for url in self.urls})
