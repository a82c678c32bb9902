"""What the processes of a run say to each other besides the work itself: who is where, results, errors, the end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...command_line import INTERRUPTED, run_command
from ...errors import ConsisIDError
from .layout import Layout

T = TypeVar("T")

GRACE = 5.0
"""Seconds that a process has to end by itself after a signal; then it is ended, wherever it waits."""


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started; without it there is one. Yields the device of this one.

    Args:
        device: "cpu" or "cuda"; of several cards each process takes the one of its number on the machine.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if chosen.index >= torch.cuda.device_count():
            raise ConsisIDError(
                f"There is no GPU for process {chosen.index + 1} of this machine, which has "
                f"{torch.cuda.device_count()}. Start as many processes: --nproc-per-node of torchrun."
            )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def join_mesh(layout: Layout, device: torch.device) -> DeviceMesh:
    """The groups of a layout: dimensions "cfg", "ring" and "ulysses". All processes call it."""
    return init_device_mesh(
        device.type, (layout.cfg, layout.ring, layout.ulysses), mesh_dim_names=("cfg", "ring", "ulysses")
    )


def gather(part: torch.Tensor, sizes: list[int], dim: int, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """The parts of all processes of a group, joined.

    Args:
        part: of this process.
        sizes: of all of them in this dimension.
    """
    if len(sizes) == 1:
        return part
    # Gloo gathers equal parts only.
    part = part.movedim(dim, 0)
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).movedim(0, dim)


def from_first(work: Callable[[], T], folder: Path) -> T:
    """What the first process makes, for all of them.

    Args:
        work: called by the first alone; what it returns can be pickled.
        folder: as of `run_command`.

    Raises:
        SystemExit: in all of them, after the first has said what is wrong.
    """
    made = []
    # Said before the others know of it: torchrun ends all processes once one has ended.
    code = run_command(lambda: made.append(work()), folder) if dist.get_rank() == 0 else None
    outcome = [code, *(made or [None])]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        raise SystemExit(outcome[0])
    return outcome[1]


_DONE, _ERROR = 0, 255
"""Beside numbers of signals."""


class _Terminated(BaseException):
    """SIGTERM, which torchrun sends to the processes that are left when one has ended."""


@contextmanager
def sure_to_end(rank: int, count: int) -> Iterator[Callable[[], None]]:
    """Let signals end this process in `GRACE` seconds, even where it waits in a library for a process that is gone.

    Python runs handlers of signals between its own instructions only; so a thread waits for them beside it.

    Yields:
        To be called where an error ends the process: it has the same seconds, then, and says no more.
    """
    has_reason, has_ended = threading.Event(), threading.Event()
    woken, waker = socket.socketpair()
    waker.setblocking(False)

    def wait():
        (number,) = woken.recv(1)
        if number == _DONE or has_ended.wait(GRACE):
            return
        if number == signal.SIGTERM and not has_reason.is_set():
            _say_that_another_ended(rank, count)
        sys.stderr.flush()
        os._exit(INTERRUPTED if number == signal.SIGINT else 1)

    def terminate(number, frame):
        if not has_reason.is_set():
            raise _Terminated

    def end():
        has_reason.set()
        waker.send(bytes([_ERROR]))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGTERM, terminate)
    try:
        yield end
    except _Terminated:
        _say_that_another_ended(rank, count)
        raise SystemExit(1) from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(wakeup)
        has_ended.set()
        waker.send(bytes([_DONE]))
        thread.join()
        woken.close()
        waker.close()


def _say_that_another_ended(rank, count):
    print(
        f"error: process {rank} of {count} stops, because another process of this run has ended, or was told to. What "
        "stands above says why; torchrun's report below names the process.",
        file=sys.stderr,
    )


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error of torch.distributed says that another process is gone."""
    words = str(error)
    return isinstance(error, dist.DistError) or any(
        sign in words for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")
    )
