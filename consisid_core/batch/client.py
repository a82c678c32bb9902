"""A ComfyUI server over its HTTP and websocket API, as its own page uses it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

_SHORT = aiohttp.ClientTimeout(total=30)
_VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".webp", ".gif")


class Rejected(Exception):
    """The server does not take a graph."""

    def __init__(self, sentence: str, nodes: frozenset[str]):
        """
        Args:
            sentence: what it says.
            nodes: ids of the nodes that it is said of.
        """
        super().__init__(sentence)
        self.nodes = nodes


class NodeFailed(Exception):
    """A node of a graph raised an error."""

    def __init__(self, message: str, node: str, error_type: str):
        """
        Args:
            message: the error's own.
            node: id of the node.
            error_type: class of the error.
        """
        super().__init__(message.strip())
        self.node, self.error_type = node, error_type


class Interrupted(Exception):
    """Somebody stopped the graph in ComfyUI."""


class Stalled(Exception):
    """No progress for too long."""


@dataclass(frozen=True)
class Client:
    """One server, in one event loop."""

    session: aiohttp.ClientSession
    """With the server's address as base."""

    async def answers(self) -> bool:
        """Whether the server is ready."""
        try:
            async with self.session.get("/system_stats", timeout=_SHORT) as response:
                return response.ok
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            return False

    async def node_types(self) -> set[str]:
        """The classes of nodes that it knows."""
        async with self.session.get("/object_info") as response:
            response.raise_for_status()
            return set(await response.json())

    async def upload(self, name: str, content: bytes) -> str:
        """Put a picture into its input folder, in place of one of that name; returns the name there."""
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", content, filename=name)
        async with self.session.post("/upload/image", data=form) as response:
            response.raise_for_status()
            return (await response.json())["name"]

    async def run(
        self, graph: dict, stall: float, on_queued: Callable[[str], None] = lambda prompt_id: None
    ) -> list[dict]:
        """Run a graph to its end.

        Args:
            graph: in API format.
            stall: seconds without any progress after which it counts as hung, while it is not waiting for others.
            on_queued: is told the prompt's id.

        Returns:
            The files that it saved: filename, subfolder, type.

        Raises:
            Rejected, NodeFailed, Interrupted, Stalled: see there.
            aiohttp.ClientError: the connection failed.
        """
        client = uuid.uuid4().hex
        async with self.session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket:
            async with self.session.post("/prompt", json={"prompt": graph, "client_id": client}) as response:
                answer = await response.json()
            if "prompt_id" not in answer:
                raise _rejected(graph, answer)
            on_queued(answer["prompt_id"])
            await self._follow(socket, answer["prompt_id"], stall)
        async with self.session.get(f"/history/{answer['prompt_id']}") as response:
            outputs = (await response.json())[answer["prompt_id"]]["outputs"]
        lists = [files for output in outputs.values() for files in output.values() if isinstance(files, list)]
        return [file for files in lists for file in files if isinstance(file, dict) and "filename" in file]

    async def fetch(self, file: dict) -> bytes | None:
        """The content of a file that `run` returned; None if it is gone, as that of an earlier run may be."""
        where = {key: file[key] for key in ("filename", "subfolder", "type")}
        async with self.session.get("/view", params=where) as response:
            if response.status == 404:
                return None
            response.raise_for_status()
            return await response.read()

    async def cancel(self, prompt_id: str) -> None:
        """Stop a graph, waiting or running, and none of anybody else."""
        await self.session.post("/queue", json={"delete": [prompt_id]}, timeout=_SHORT)
        await self.session.post("/interrupt", json={"prompt_id": prompt_id}, timeout=_SHORT)

    async def free(self) -> None:
        """Have it unload its models and forget its results."""
        await self.session.post("/free", json={"unload_models": True, "free_memory": True}, timeout=_SHORT)

    async def _follow(self, socket, prompt_id, stall):
        last = time.monotonic()
        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), max(0.0, last + stall - time.monotonic()))
            except asyncio.TimeoutError:
                if not await self._is_waiting(prompt_id):
                    raise Stalled from None
                last = time.monotonic()
                continue
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                raise aiohttp.ClientConnectionError("the server closed the connection")
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            data = event.get("data", {})
            if data.get("prompt_id") != prompt_id:
                continue
            last = time.monotonic()
            if event["type"] == "executing" and data["node"] is None:
                return
            if event["type"] == "execution_error":
                raise NodeFailed(data["exception_message"], data["node_id"], data.get("exception_type", ""))
            if event["type"] == "execution_interrupted":
                raise Interrupted

    async def _is_waiting(self, prompt_id):
        async with self.session.get("/queue", timeout=_SHORT) as response:
            return any(prompt_id in entry for entry in (await response.json())["queue_pending"])


def first_video(files: list[dict]) -> dict | None:
    """Of the files that a graph saved, the video."""
    return next((file for file in files if file["filename"].lower().endswith(_VIDEOS)), None)


def _rejected(graph, answer):
    sentences, nodes = [], set()
    for node_id, report in answer.get("node_errors", {}).items():
        name = graph.get(node_id, {}).get("_meta", {}).get("title") or report.get("class_type")
        nodes.add(node_id)
        sentences += [f"{name}: {error['message']} ({error['details']})." for error in report["errors"]]
    error = answer.get("error", {})
    if not sentences and isinstance(error, dict):
        sentences.append(f"{error.get('message')} ({error.get('details')}).")
    return Rejected(" ".join(sentences), frozenset(nodes))
