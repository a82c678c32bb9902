"""What a running node tells its user in the frontend: how far it is, and below that what its run has logged.

The text goes to the node that ComfyUI executes at the moment, whosever node that is. Outside a server nothing is sent,
nor to a client that declares no feature flags.
"""

from __future__ import annotations

import contextlib
import functools
import html
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from comfy_execution.utils import get_executing_context


class NodeNotices(logging.Handler):
    """Shows what is logged, from level INFO, on the node that is executed; keeps repeats within a run out of the log.

    The frontend keeps a node's text until another comes, so a node's next run has to begin with `begin`.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._notices = {}  # Node id -> (id of the prompt, what this run of the node has logged).

    def begin(self) -> None:
        """Take from the executed node what it showed in an earlier run. Several calls within a run are as one."""
        context = get_executing_context()
        if context is not None:
            with self.lock:
                if self._forget_earlier_run(context):
                    _send(context.node_id, " ")  # The frontend ignores an empty text.

    def is_new(self, record: logging.LogRecord) -> bool:
        """Tell as a filter of the logger whether this run of the executed node has not logged the same before."""
        context = get_executing_context()
        if context is None or record.levelno < self.level:
            return True
        with self.lock:
            return record.getMessage() not in self._lines(context)

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record to what the executed node shows."""
        context = get_executing_context()
        if context is not None:
            lines = self._lines(context)
            lines.append(record.getMessage())
            _send(context.node_id, "\n".join(lines))

    def show(self, line: str) -> None:
        """Show a line above what was logged, in place of the one before: without scrolling only two lines are seen."""
        context = get_executing_context()
        if context is not None:
            with self.lock:
                _send(context.node_id, "\n".join([line, *self._lines(context)]))

    def _lines(self, context):
        self._forget_earlier_run(context)
        return self._notices.setdefault(context.node_id, (context.prompt_id, []))[1]

    def _forget_earlier_run(self, context):
        earlier = context.node_id in self._notices and self._notices[context.node_id][0] != context.prompt_id
        if earlier:
            del self._notices[context.node_id]
        return earlier


def _send(node_id, text):
    # Looked up, because importing ComfyUI's server takes what only its main.py sets up.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and _knows_messages(server, server.client_id):
        # The frontend shows it as HTML, and there are file names and prompts in it.
        server.send_progress_text(html.escape(text, quote=False), node_id, server.client_id)


def _knows_messages(server, client_id):
    """Whether a client has declared feature flags, as the frontend does first of all. Others, which may have left the
    server, never get a text: many programs take every binary message for a picture."""
    return bool(server.sockets_metadata.get(client_id, {}).get("feature_flags"))


notices = NodeNotices()


def clears_notices(execute: Callable) -> Callable:
    """Decorate a node's `execute` so that what the node showed in its last run goes when it runs again.

    The frontend keeps a node's text until another comes. A node that ComfyUI takes from its cache is not executed and
    keeps its text, which still holds.
    """

    @functools.wraps(execute)
    def run(*args, **kwargs):
        notices.begin()
        return execute(*args, **kwargs)

    return run


def install() -> None:
    """Let the pack's logger write on nodes too. Calling it again changes nothing."""
    logger = logging.getLogger("consisid")
    logger.addHandler(notices)
    logger.addFilter(notices.is_new)


@contextlib.contextmanager
def count_steps(total: int) -> Iterator[Callable[[int], None]]:
    """Show on the node, within the context, how many steps are done and the time left.

    The first step is left out of the estimate, because models are loaded in it.

    Args:
        total: Steps that there will be.

    Returns:
        A context whose value is to be called after each step with the number of steps done.
    """
    start = time.monotonic()
    first = None
    done = 0

    def count(steps: int) -> None:
        nonlocal first, done
        now, done = time.monotonic(), steps
        first = first or (now, steps)
        line = f"Step {steps} of {total}"
        if steps > first[1]:
            line += f", {_duration((now - first[0]) / (steps - first[1]) * (total - steps))} left"
        notices.show(line)

    try:
        yield count
    except BaseException:
        notices.show(f"Stopped after step {done} of {total}")
        raise
    notices.show(f"{done} steps in {_duration(time.monotonic() - start)}")


def _duration(seconds):
    return str(timedelta(seconds=round(seconds)))
