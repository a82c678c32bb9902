"""Runs a command for as long as its parent lives: `python leash.py COMMAND ...`, with a pipe as standard input.

When the pipe closes, because the parent closed it or because it ended in whatever way, the command is ended too. So a
killed worker leaves no ComfyUI behind that holds a GPU. A script of its own, so that it starts in no time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1
_GRACE = 10  # seconds that the command has to end in order


def main(command: list[str]) -> int:
    """Run a command, and return its exit code."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_this if sys.platform == "linux" else None
    )
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    return process.wait()


def _end_with_this():
    """Have Linux kill the command if this program itself is killed, as Ray does with the children of its processes."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent(process):
    while os.read(0, 1024):
        pass
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
