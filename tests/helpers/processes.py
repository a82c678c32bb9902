"""Waiting for what another process does."""

import multiprocessing
import time

SECONDS = 600
"""So long a process may take: a limit for what hangs, not for a machine that has other work."""


def wait_until(condition, process):
    """Waits until a condition holds that a running process brings about."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def forkserver():
    """Where processes come from: a fork of the tests' fails once autograd was used, and a new one imports for long.

    They import the core by its own name: `consisid_pack` exists under pytest only.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch.distributed.checkpoint", "torch.distributed.device_mesh", "torch.distributed.fsdp",
            "torch.utils.tensorboard", "transformers.models.t5.modeling_t5", "timm", "onnxruntime",
        ]
    )  # fmt: skip
    return context
