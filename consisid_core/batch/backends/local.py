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

    def __init__(
        self, comfyui: Path, folder: Path, options: list[str], workers: int, stall: float, gpus_each: int = 1
    ) -> None:
        """
        Args:
            comfyui: ComfyUI's root.
            folder: for what the servers write.
            options: of ComfyUI's command line.
            workers: so many servers; 0 for as many as the GPUs suffice for, or one on the CPU.
            stall: as for `Worker`.
            gpus_each: so many GPUs a server sees.
        """
        super().__init__()
        self.comfyui, self.folder, self.options = comfyui, folder, options
        self.workers, self.stall, self.gpus_each = workers, stall, gpus_each

    def weights(self, graph: dict) -> str:
        """As `Backend.weights`."""
        return weight_digest(graph, base_directory(self.comfyui, self.options))

    def start(self, node_types: frozenset[str], weights: str) -> None:
        """As `Backend.start`.

        Raises:
            ConsisIDError: fewer GPUs than workers.
        """
        gpus, each = visible_gpus(), self.gpus_each
        if gpus or each > 1:
            wanted = self.workers or max(1, len(gpus) // each)
            if wanted * each > len(gpus):
                needs = "its own" if each == 1 else f"{each} of its own"
                raise ConsisIDError(
                    f"There are {len(gpus)} GPUs for {wanted} workers, and each needs {needs}. Ask for fewer, or "
                    "leave --workers and --gpus-per-video out."
                )
            shares = [gpus[number * each : (number + 1) * each] for number in range(wanted)]
            places = {f"gpu-{'-'.join(share)}": ",".join(share) for share in shares}
            options = self.options
        else:
            places = {f"cpu-{number}": None for number in range(self.workers or 1)}
            options = self.options if "--cpu" in self.options else [*self.options, "--cpu"]
        servers = {name: OwnServer(self.comfyui, self.folder / name, options, gpu) for name, gpu in places.items()}
        self.launch({name: Worker(server, node_types, self.stall) for name, server in servers.items()})


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may hold, a name for each GPU that this process may use."""
    import torch

    count = torch.cuda.device_count()
    listed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed[:count] if listed else [str(number) for number in range(count)]
