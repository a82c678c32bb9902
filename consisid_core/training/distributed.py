"""The processes of a run: who they are, and how the net is spread over them.

`torchrun` and `accelerate launch` both tell each process by the same environment variables; without them a run is one
process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from ..errors import ConsisIDError
from .config import Batch, Memory
from .net import Denoiser


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def accumulation(self, batch: Batch) -> int:
        """Micro-batches of a step.

        Raises:
            ConsisIDError: the size of a step is no multiple of what the processes take at a time.
        """
        steps, rest = divmod(batch.size, batch.micro * self.count)
        if rest:
            raise ConsisIDError(
                f"batch.size = {batch.size} is no multiple of batch.micro = {batch.micro} clips on each of "
                f"{self.count} processes. Choose a multiple of {batch.micro * self.count}."
            )
        return steps

    def sum(self, *values: float) -> list[float]:
        """Each value, summed over all processes."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64 if self.device.type == "cpu" else torch.float32)
        together = together.to(self.device)
        dist.all_reduce(together)
        return together.tolist()

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that a launcher started.

    Args:
        device: "cpu" or "cuda"; of several cards each process takes the one of its number on the machine.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if count == 1:
        yield Ranks(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), count, chosen)
    finally:
        dist.destroy_process_group()


def spread(net: Denoiser, memory: Memory, ranks: Ranks, set_formats: Callable[[nn.Module, str], None]) -> nn.Module:
    """The net on the device, as `Memory` says: checkpointed, compiled, copied (DDP) or sliced (FSDP2).

    Args:
        set_formats: `net.set_formats` of (a module, its name in the transformer).
    """
    transformer = net.transformer
    if memory.compile:
        for block in transformer.transformer_blocks:
            block.compile()
    if memory.checkpointing:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        # Not reentrant, which is the wrapper's default: the blocks write in place where autograd is off.
        for blocks in (transformer.transformer_blocks, transformer.perceiver_cross_attention):
            for i, block in enumerate(blocks):
                blocks[i] = checkpoint_wrapper(block)

    if ranks.count > 1 and memory.sharding == "fsdp":
        return _sliced(net, memory, ranks, set_formats)
    set_formats(transformer, "")
    net.to(ranks.device)
    if ranks.count == 1:
        return net
    return nn.parallel.DistributedDataParallel(
        net, device_ids=[ranks.device] if ranks.device.index is not None else None
    )


def _sliced(net, memory, ranks, set_formats):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    compute = None if memory.precision == "float32" else torch.bfloat16
    # Gradients are summed in the format of the trained parameters.
    policy = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=compute is not None
    )
    transformer = net.transformer
    parts = [
        *((f"transformer_blocks.{i}", block) for i, block in enumerate(transformer.transformer_blocks)),
        *((f"perceiver_cross_attention.{i}", part) for i, part in enumerate(transformer.perceiver_cross_attention)),
        ("local_facial_extractor", transformer.local_facial_extractor),
    ]
    # One part at a time, so that the host holds the wider formats of one part only.
    for name, part in parts:
        set_formats(part, name)
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for own, part in transformer.named_children():
        if own not in ("transformer_blocks", "perceiver_cross_attention", "local_facial_extractor"):
            set_formats(part, own)
    return fully_shard(net, mesh=mesh, mp_policy=policy)


@contextmanager
def accumulating(net: nn.Module, is_last: bool) -> Iterator[None]:
    """A backward pass inside sends gradients to the other processes only if it is a step's last."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(is_last)
        yield
    elif isinstance(net, nn.parallel.DistributedDataParallel) and not is_last:
        with net.no_sync():
            yield
    else:
        yield
