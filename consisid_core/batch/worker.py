"""One worker: a server, and what becomes of a task on it."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from ..errors import ConsisIDError, is_out_of_memory
from .client import Client, Interrupted, NodeFailed, Rejected, Stalled, first_video
from .graph import title
from .server import ForeignServer, OwnServer, ask, forget
from .tasks import Kind, Outcome, Task

_UNREACHABLE = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_NO_MEMORY = "the free memory does not suffice"  # `errors.lack_of_memory`


class Worker:
    """Makes one task at a time. Its server is started anew when it has ended."""

    def __init__(self, server: OwnServer | ForeignServer, node_types: frozenset[str], stall: float) -> None:
        """
        Args:
            server: its own, or one of somebody else.
            node_types: what that has to know.
            stall: seconds without progress after which a task counts as hung.
        """
        self.server, self.node_types, self.stall = server, node_types, stall
        self._prompt_id = ""

    def start(self) -> None:
        """Have the server ready.

        Raises:
            ConsisIDError: it does not start, or lacks nodes.
        """
        self.server.start(self.node_types)

    def make(self, task: Task) -> Outcome:
        """Run a task. Whatever happens to the server is told in the outcome.

        Raises:
            ConsisIDError: the server cannot be started again; the task is not to blame.
        """
        self.start()
        begin = time.monotonic()

        def outcome(kind, sentence="", **made):
            return Outcome(task.key, kind, sentence, seconds=round(time.monotonic() - begin, 3), **made)

        def failure_of(nodes):
            return Kind.REFUSED if nodes and nodes <= task.own_nodes else Kind.BROKEN

        try:
            content, suffix = self._made(task)
            self.server.after_task()
            return outcome(Kind.MADE, content=content, suffix=suffix)
        except Rejected as error:
            return outcome(failure_of(error.nodes), str(error))
        except NodeFailed as error:
            if _is_memory(error):
                self.server.reset()
                return outcome(Kind.MEMORY, str(error))
            sentence = f"{title(task.graph, error.node)}: {error}"
            if _is_of_the_device(error):
                self.server.reset()
                return outcome(Kind.LOST, sentence)
            return outcome(failure_of({error.node}), sentence)
        except ConsisIDError as error:
            return outcome(Kind.BROKEN, str(error))
        except Interrupted:
            return outcome(Kind.LOST, "Somebody stopped it in ComfyUI.")
        except Stalled:
            self.server.cancel(self._prompt_id)
            return outcome(Kind.STALLED, f"No progress for {self.stall:.0f} s. {self.server.tail()}")
        except _UNREACHABLE as error:
            # A server that is ended by the system for want of memory says nothing of its own.
            sentence = f"The connection to the ComfyUI at {self.server.url} failed ({error}). {self.server.tail()}"
            self.server.stop()
            return outcome(Kind.LOST, sentence)

    def close(self) -> None:
        """End what runs, from another thread."""
        if self._prompt_id:
            self.server.cancel(self._prompt_id)
        self.server.stop()

    def _made(self, task):
        """(content, suffix) of the file that a task makes."""
        made = self._once(task)
        if made is None:
            # The server has this graph in its cache, from a try that was lost on the way here.
            forget(self.server.url)
            made = self._once(task)
        if made is None:
            raise ConsisIDError("The graph ended without a video file. It needs a node that saves one, Save Video.")
        return made

    def _once(self, task):
        """The same, or None if the server has saved nothing."""
        for file in task.files:
            if file.is_identity:
                self.server.put_identity(file.name, file.read())
        photos = [file for file in task.files if not file.is_identity]
        made = ask(self.server.url, lambda client: self._run(client, task, photos))
        if not task.is_face:
            return made
        identity = self.server.take_identity(task.key)
        return identity and (identity, ".safetensors")

    async def _run(self, client: Client, task, photos):
        for photo in photos:
            await client.upload(photo.name, photo.read())
        video = first_video(await client.run(task.graph, self.stall, self._note))
        content = video and await client.fetch(video)
        return content and (content, "." + video["filename"].rpartition(".")[2].lower())

    def _note(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id


def _is_memory(error: NodeFailed) -> bool:
    text = str(error)
    return (
        error.error_type.endswith(("OutOfMemoryError", "MemoryError"))
        or _NO_MEMORY in text
        or is_out_of_memory(Exception(text))
    )


def _is_of_the_device(error: NodeFailed) -> bool:
    """Whether it says that the process can do nothing more on its GPU."""
    return any(sign in str(error) for sign in ("CUDA error", "CUDNN_STATUS", "HIP error", "device-side assert"))
