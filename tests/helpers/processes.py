"""Waiting for what another process does."""

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
