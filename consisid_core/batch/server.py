"""ComfyUI servers that workers use: their own, which they start, watch and stop, or one that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp

from ..checkpoint.model_folders import ModelFolders
from ..errors import ConsisIDError
from .client import Client

log = logging.getLogger("consisid")

START_SECONDS = 600
"""So long a server may take to answer for the first time."""

GROWTH = 0.2
"""Of the machine's memory: by so much may a server grow after its second task before it is started anew."""

_STARTS = 3  # In the moment between finding a free port and taking it another program may take it.
_SETTLED = 2  # tasks until all models of a graph have been loaded once
_PAUSE = 0.25  # seconds between questions to a server that starts
_FORGETTING = 1  # seconds until a server has noticed, between two graphs, that it is to forget
_LOG_LINES = 15
_FOLDERS = ("input", "output", "temp", "user")
_DATE = 10**9  # of every identity, in seconds
_PACK = "ConsisID"

Result = TypeVar("Result")


def ask(url: str, question: Callable[[Client], Awaitable[Result]]) -> Result:
    """What a server answers, asked in an event loop of its own."""

    async def run():
        async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=None, sock_connect=30)) as session:
            return await question(Client(session))

    return asyncio.run(run())


def find_comfyui(named: str | None) -> Path:
    """The root of the ComfyUI that is meant, as `ModelFolders` finds it.

    Raises:
        ConsisIDError: there is none.
    """
    root = ModelFolders(named).models.parent
    if not (root / "main.py").is_file():
        raise ConsisIDError(f"{root} is no ComfyUI: it has no main.py. Name ComfyUI's folder with --comfyui.")
    return root


def base_directory(comfyui: Path | str | None, options: list[str]) -> Path | None:
    """Where a ComfyUI that is started with these options has its models; None if neither names a folder."""
    found = comfyui
    for option, following in zip(options, [*options[1:], None], strict=False):
        name, is_joined, value = option.partition("=")
        if name == "--base-directory":
            found = value if is_joined else following
    return Path(found).expanduser() if found else None


def check_nodes(url: str, node_types: frozenset[str]) -> None:
    """Refuse a server that lacks nodes.

    Raises:
        ConsisIDError: naming the server and the nodes.
    """
    try:
        missing = node_types - ask(url, Client.node_types)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ConsisIDError(
            f"{url} does not answer as a ComfyUI server does ({error}). Start ComfyUI there, or correct the address."
        ) from None
    if missing:
        ours = all(name.startswith(_PACK) for name in missing)
        cure = "Install this pack there" if ours else "Install there the packs that they belong to"
        raise ConsisIDError(
            f"The ComfyUI at {url} has no node {', '.join(sorted(missing))}, which the graph uses. {cure}, and restart "
            "it; its log says whether a pack failed to load."
        )


def forget(url: str) -> None:
    """Have a server unload its models and forget its results."""
    ask(url, Client.free)
    time.sleep(_FORGETTING)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment.

    Raises:
        ConsisIDError: there is none.
    """
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
    except OSError as error:
        raise ConsisIDError(
            f"There is no free port on 127.0.0.1 for a ComfyUI server ({error.strerror or error}). Close programs that "
            "hold many connections, or wait a minute, and start again."
        ) from None


class OwnServer:
    """A ComfyUI process on 127.0.0.1 with the user's models and packs, and folders of its own for everything it writes.

    It ends with `stop`, and with the process that started it, however that ends.
    """

    def __init__(self, comfyui: Path, folder: Path, options: list[str], gpu: str | None = None) -> None:
        """
        Args:
            comfyui: its root.
            folder: for its input, output, log and identities; made by `start`, emptied of files by `stop`.
            options: further ones of ComfyUI's command line.
            gpu: for CUDA_VISIBLE_DEVICES; None leaves that as it is.
        """
        self.comfyui, self.folder, self.options, self.gpu = comfyui, folder, options, gpu
        self.log = folder / "server.log"
        self.url = ""
        self._process: subprocess.Popen | None = None
        self._tasks = 0
        self._first_memory = 0
        self._stopping = threading.Lock()

    def start(self, node_types: frozenset[str]) -> None:
        """Start it unless it runs, and wait until it answers.

        Raises:
            ConsisIDError: it ends or does not answer, with the end of its log; or it lacks nodes.
        """
        if self._process and self._process.poll() is None:
            return
        self.stop()
        for left in reversed(range(_STARTS)):
            try:
                self._launch()
                break
            except ConsisIDError as error:
                if not left or "in use" not in str(error):
                    raise
        check_nodes(self.url, node_types)

    def stop(self) -> None:
        """End the process, and remove what it wrote except its log."""
        with self._stopping:  # A worker's thread, and the one that closes it.
            if self._process:
                self._process.stdin.close()
                self._process.wait()
            self._process, self._tasks = None, 0
            for name in _FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def put_identity(self, name: str, content: bytes) -> None:
        """Let Load ConsisID Identity find an identity."""
        file = self._identities / f"{name}.safetensors"
        file.write_bytes(content)
        # The loader goes by the date. The name stands for the content, so what was made of it before holds.
        os.utime(file, (_DATE, _DATE))

    def take_identity(self, name: str) -> bytes | None:
        """What Save ConsisID Identity saved, which is removed; None if it saved nothing."""
        file = self._identities / f"{name}.safetensors"
        if not file.is_file():
            return None
        content = file.read_bytes()
        file.unlink()
        return content

    def after_task(self) -> None:
        """Remove what the task left, and stop a server whose memory keeps growing; `start` starts it again."""
        for name in ("output", "temp"):
            for path in (self.folder / name).glob("*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for path in self._identities.glob("*"):
            path.unlink(missing_ok=True)
        self._tasks += 1
        memory, total = self._memory()
        if self._tasks <= _SETTLED:
            self._first_memory = memory
        elif memory - self._first_memory > GROWTH * total:
            grown = (memory - self._first_memory) / 1e9
            log.warning("The server in %s has grown by %.1f GB and is started anew.", self.folder, grown)
            self.stop()

    def reset(self) -> None:
        """Make it as it was at the start."""
        self.stop()

    def cancel(self, prompt_id: str) -> None:
        """Stop a graph that runs here, with the whole server."""
        self.stop()

    def tail(self) -> str:
        """The end of its log, for a message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
        return f"Its log, {self.log}, ends with:\n" + "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])

    @property
    def _identities(self):
        return self.folder / "models" / "consisid" / "identities"

    def _launch(self):
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._identities.mkdir(parents=True, exist_ok=True)
        paths = self.folder / "extra_model_paths.yaml"
        # The default of a kind of model is where new files go: identities of this run, not those of the user.
        section = {"base_path": str(self.folder.absolute()), "is_default": True, "consisid": "models/consisid"}
        paths.write_text(json.dumps({"batch": section}), encoding="utf-8")  # JSON is YAML.
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(Path(__file__).with_name("leash.py")), sys.executable, "main.py"]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
        command += ["--extra-model-paths-config", str(paths.absolute())]
        for name in _FOLDERS:
            # ComfyUI makes a folder temp in the one that it is told.
            folder = self.folder if name == "temp" else self.folder / name
            command += [f"--{name}-directory", str(folder.absolute())]
        command += ["--database-url", "sqlite:///:memory:", *self.options]
        environment = dict(os.environ) if self.gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": self.gpu}
        # Ctrl-C in a terminal is for the driver, which then stops its servers.
        apart = {"creationflags": 0x200} if os.name == "nt" else {"start_new_session": True}
        with self.log.open("wb") as output:
            self._process = process = subprocess.Popen(
                command, cwd=self.comfyui, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                env=environment, **apart,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not ask(self.url, Client.answers):
            if (code := process.poll()) is not None:
                raise ConsisIDError(f"ComfyUI ended with exit code {code} before it answered. {self.tail()}")
            if time.monotonic() > end:
                raise ConsisIDError(f"ComfyUI did not answer within {START_SECONDS} s. {self.tail()}")
            time.sleep(_PAUSE)

    def _memory(self):
        """(bytes that the server holds, bytes of the machine)."""
        import psutil

        used = 0
        with contextlib.suppress(psutil.Error):
            leash = psutil.Process(self._process.pid)
            used = sum(process.memory_info().rss for process in leash.children(recursive=True))
        return used, psutil.virtual_memory().total


class ForeignServer:
    """A ComfyUI that somebody else runs: asked, never started or stopped. Videos stay in its output folder too."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: its address, "http://HOST:PORT".
        """
        self.url = url.rstrip("/")

    def start(self, node_types: frozenset[str]) -> None:
        """Look whether it answers and knows the nodes.

        Raises:
            ConsisIDError: it does not.
        """
        check_nodes(self.url, node_types)

    def stop(self) -> None:
        """Leave it running."""

    def after_task(self) -> None:
        """Nothing is ours there."""

    def reset(self) -> None:
        """Have it unload models and forget results."""
        forget(self.url)

    def cancel(self, prompt_id: str) -> None:
        """Stop a graph of ours."""
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
            ask(self.url, lambda client: client.cancel(prompt_id))

    def tail(self) -> str:
        """Where to look further."""
        return "Its log says more."
