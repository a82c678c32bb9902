"""Processes that draw beside the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def follow_parent() -> None:
    """Leave Ctrl-C, which reaches all processes, to the one that started this one; end at once when that is gone, in
    whatever way. To be called in a process of `multiprocessing`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(parent):
    parent.join()
    os._exit(1)
