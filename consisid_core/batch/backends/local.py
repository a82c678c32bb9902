"""Workers on this machine: a ComfyUI for each GPU, or on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConsisIDError
from ..server import OwnServer, base_directory
from ..weight_digest import weight_digest
from ..worker import Worker
from .threads import Threads


class Local(Threads):
    """A backend of servers that this process starts."""

    keeps_identities = True

    def __init__(self, comfyui: Path, folder: Path, options: list[str], workers: int, stall: float) -> None:
        """
        Args:
            comfyui: ComfyUI's root.
            folder: for what the servers write.
            options: of ComfyUI's command line.
            workers: so many servers; 0 for one on each GPU, or one on the CPU.
            stall: as for `Worker`.
        """
        super().__init__()
        self.comfyui, self.folder, self.options = comfyui, folder, options
        self.workers, self.stall = workers, stall

    def weights(self, graph: dict) -> str:
        """As `Backend.weights`."""
        return weight_digest(graph, base_directory(self.comfyui, self.options))

    def start(self, node_types: frozenset[str], weights: str) -> None:
        """As `Backend.start`.

        Raises:
            ConsisIDError: fewer GPUs than workers.
        """
        gpus = visible_gpus()
        if gpus and self.workers > len(gpus):
            raise ConsisIDError(
                f"There are {len(gpus)} GPUs for {self.workers} workers, and each needs its own. Ask for fewer, or "
                "leave --workers out."
            )
        options = self.options if gpus or "--cpu" in self.options else [*self.options, "--cpu"]
        names = [f"gpu-{gpu}" for gpu in gpus[: self.workers or None]] or [
            f"cpu-{number}" for number in range(self.workers or 1)
        ]

        servers = {
            name: OwnServer(self.comfyui, self.folder / name, options, name.removeprefix("gpu-") if gpus else None)
            for name in names
        }
        self.launch({name: Worker(server, node_types, self.stall) for name, server in servers.items()})


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may hold, a name for each GPU that this process may use."""
    import torch

    count = torch.cuda.device_count()
    listed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed[:count] if listed else [str(number) for number in range(count)]
