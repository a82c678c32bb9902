"""Workers on a Ray cluster: an actor for each GPU, on whatever machines there are, and on those that join later."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import ConsisIDError
from ..run_folder import RunFolder
from ..server import OwnServer, base_directory, find_comfyui
from ..tasks import Kind, Outcome, Task
from ..weight_digest import weight_digest
from ..worker import Worker
from . import Event

_LOOK = 2.0  # seconds between looks for machines that have joined
_PATIENCE = 600.0  # seconds that a run waits for a machine when it has none
_ANSWER = 10.0  # seconds for a cluster's address to answer
_CURRENT = Path("/tmp/ray/ray_current_cluster")  # Where Ray notes the address that "auto" stands for.
_END = 15.0  # seconds that actors have to stop their servers in order
_DEATHS = 3  # of actors of one machine in a row, without a video, after which it gets no more
_INSTALL = 'pip install "ray>=2.40", in the Python that runs ComfyUI, in one version on every machine of the cluster'


class RayCluster:
    """A backend of actors, each with a ComfyUI of its own.

    Where no machine of the cluster has a GPU, each gets one worker on its CPU.
    """

    keeps_identities = True

    def __init__(
        self,
        address: str,
        comfyui: str | None,
        options: list[str],
        stall: float,
        shared: Path | None,
        gpus_each: int = 1,
    ) -> None:
        """
        Args:
            address: of the cluster, as `ray.init` takes it.
            comfyui: its folder on every machine; None for what each machine finds itself.
            options: of ComfyUI's command line.
            stall: as for `Worker`.
            shared: the run's folder, if all machines see it under this path, so that workers write there.
            gpus_each: so many GPUs, of one machine, a worker takes.

        Raises:
            ConsisIDError: there is no Ray here, no cluster there, or one of another version.
        """
        self.address, self.comfyui, self.options, self.stall = address, comfyui, options, stall
        self.shared, self.gpus_each = RunFolder(shared) if shared else None, gpus_each
        self._ray = _connect(address)
        self._graph: dict = {}
        self._actors: dict[str, tuple[object, str]] = {}  # Worker -> actor, node.
        self._waiting: dict[object, str] = {}  # What an actor was asked -> worker.
        self._deaths: Counter[str] = Counter()
        self._count = 0
        self._needed: tuple[frozenset[str], str] | None = None
        self._last_look = self._last_alive = 0.0

    def weights(self, graph: dict) -> str:
        """As `Backend.weights`, of the first machine; the others compare theirs with it.

        Raises:
            ConsisIDError: that machine has no ComfyUI, or the cluster has no machine.
        """
        self._graph = graph
        machines = self._machines()
        if not machines:
            machine = "machine" if self.gpus_each == 1 else f"machine with {self.gpus_each} GPUs"
            raise ConsisIDError(f"The Ray cluster at {self.address} has no {machine}. Add one: ray start --address ...")
        there = self._ray.remote(_weights_there).options(num_cpus=0, scheduling_strategy=_at(next(iter(machines))))
        digest, error = self._ray.get(there.remote(graph, self.comfyui, self.options))
        if error:
            raise ConsisIDError(f"On a machine of the cluster: {error}")
        return digest

    def start(self, node_types: frozenset[str], weights: str) -> None:
        """As `Backend.start`."""
        self._needed = node_types, weights
        self._last_alive = time.monotonic()
        self._look()

    def give(self, worker: str, task: Task) -> None:
        """As `Backend.give`."""
        actor, _ = self._actors[worker]
        carried = self.shared.share if self.shared else lambda file: replace(file, content=file.read())
        task = replace(task, files=tuple(map(carried, task.files)))
        self._waiting[actor.make.remote(task)] = worker

    def events(self, seconds: float) -> list[Event]:
        """As `Backend.events`."""
        if time.monotonic() - self._last_look > _LOOK:
            self._look()
        if not self._waiting:
            time.sleep(min(seconds, _LOOK))
            return []
        ended, _ = self._ray.wait(list(self._waiting), timeout=seconds)
        return [self._event(answer) for answer in ended]

    def is_dead(self) -> bool:
        """As `Backend.is_dead`: every machine has failed, or there has been none for ten minutes."""
        if self._actors:
            self._last_alive = time.monotonic()
            return False
        machines = self._machines()
        if machines:
            return all(self._deaths[node] >= _DEATHS for node in machines)
        return time.monotonic() - self._last_alive > _PATIENCE

    def close(self) -> None:
        """As `Backend.close`."""
        ending = [actor.close.remote() for actor, _ in self._actors.values()]
        if ending:
            self._ray.wait(ending, num_returns=len(ending), timeout=_END)
        for actor, _ in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def _machines(self):
        """Node -> workers that it gets."""
        nodes = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        gpus = {node: int(resources.get("GPU", 0)) // self.gpus_each for node, resources in nodes.items()}
        with_gpus = {node: count for node, count in gpus.items() if count}
        if with_gpus or self.gpus_each > 1:
            return with_gpus
        return {node: 1 for node, resources in nodes.items() if resources.get("CPU", 0) >= 1}

    def _look(self):
        """Start the actors that machines lack."""
        self._last_look = time.monotonic()
        machines = self._machines()
        there = Counter(node for _, node in self._actors.values())
        has_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in self._ray.nodes() if node["Alive"])
        for node, wanted in machines.items():
            if self._deaths[node] >= _DEATHS:
                continue
            for _ in range(wanted - there[node]):
                self._count += 1
                name = f"{self._count}@{self._address_of(node)}"
                takes = {"num_gpus": self.gpus_each, "num_cpus": 0} if has_gpus else {"num_cpus": 1}
                maker = self._ray.remote(_Actor).options(
                    **takes, max_restarts=0, max_concurrency=2, scheduling_strategy=_at(node)
                )
                options = self.options if has_gpus or "--cpu" in self.options else [*self.options, "--cpu"]
                needs = _Needs(
                    self.comfyui, options, self.stall, *self._needed, self._graph,
                    self.shared and self.shared.run_dir, os.environ.get("OMP_NUM_THREADS"),
                )  # fmt: skip
                actor = maker.remote(needs)
                self._actors[name] = actor, node
                self._waiting[actor.ready.remote()] = name

    def _address_of(self, node):
        found = (other for other in self._ray.nodes() if other["NodeID"] == node)
        return next((other["NodeManagerAddress"] for other in found), node[:8])

    def _event(self, answer):
        worker = self._waiting.pop(answer)
        try:
            answered = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            return self._gone(worker, f"Ray has lost it ({str(error).strip().splitlines()[0]}).")
        if isinstance(answered, str):  # Why it cannot work at all: its machine would say the same again.
            self._deaths[self._actors[worker][1]] = _DEATHS
            return self._gone(worker, answered)
        if isinstance(answered, Outcome) and answered.kind is Kind.MADE:
            self._deaths[self._actors[worker][1]] = 0
        return Event(worker, answered)

    def _gone(self, worker, sentence):
        actor, node = self._actors.pop(worker)
        self._deaths[node] += 1
        self._ray.kill(actor)
        return Event(worker, gone=sentence)


@dataclass(frozen=True)
class _Needs:
    """What an actor is told at its start."""

    comfyui: str | None
    options: list[str]
    stall: float
    node_types: frozenset[str]
    weights: str
    graph: dict
    shared: Path | None
    threads: str | None
    """OMP_NUM_THREADS of the driver. Ray sets it to 1 in its processes, and their servers would take that over."""


class _Actor:
    """A worker in a process of its own. Ray ends that process, and with it its server."""

    def __init__(self, needs: _Needs) -> None:
        self._needs = needs
        self._work_folder = Path(tempfile.mkdtemp(prefix="consisid-batch-"))
        self._worker: Worker | None = None
        self._folder = RunFolder(needs.shared) if needs.shared else None

    def ready(self) -> str | None:
        """None, or why it cannot work."""
        needs = self._needs
        os.environ.pop("OMP_NUM_THREADS", None)
        if needs.threads:
            os.environ["OMP_NUM_THREADS"] = needs.threads
        try:
            root = find_comfyui(needs.comfyui)
            models = base_directory(root, needs.options)
            if (here := weight_digest(needs.graph, models)) != needs.weights:
                return (
                    f"Its weights are not those of the first machine ({here[:8]}, not {needs.weights[:8]}), so its "
                    f"videos would be others. Copy the models that the graph names into {models / 'models'}."
                )
            self._worker = Worker(OwnServer(root, self._work_folder, needs.options), needs.node_types, needs.stall)
            self._worker.start()
            if self._folder:
                self._writing = self._folder.results.writing()
                self._writing.__enter__()
        except ConsisIDError as error:
            return str(error)
        return None

    def make(self, task: Task) -> Outcome | str:
        """The outcome of a task, or why no further one can be made."""
        try:
            outcome = self._worker.make(task)
        except ConsisIDError as error:
            return str(error)
        if self._folder and outcome.kind is Kind.MADE:
            self._folder.take(task, outcome, task.attempts)
            outcome = replace(outcome, content=b"")
        return outcome

    def close(self) -> None:
        """Stop the server and remove what it wrote, while `make` may still be at work in another thread."""
        if self._worker:
            self._worker.close()
        shutil.rmtree(self._work_folder, ignore_errors=True)


def _connect(address):
    """The module ray, connected."""
    try:
        import ray
    except ImportError:
        raise ConsisIDError(f"--ray needs Ray: {_INSTALL}.") from None
    # This package as it is here, without its data, so that driver and workers are of one version.
    environment = {"py_modules": [str(Path(__file__).parents[2])], "excludes": ["*.safetensors", "__pycache__"]}
    try:
        _check_that_something_answers(address)
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError) as error:  # ConnectionError, which Ray raises, is an OSError.
        first = str(error).strip().splitlines()[0]
        raise ConsisIDError(
            f"There is no Ray cluster at {address} ({first}). Start one with `ray start --head`, join other machines "
            "with `ray start --address=HOST:6379`, and name that address with --ray."
        ) from None
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise ConsisIDError(f"Ray at {address}: {error}") from None
        here = f"Ray {ray.__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}"
        raise ConsisIDError(
            f"The cluster at {address} runs another version of Ray or Python than this machine, which has {here}. "
            f"{_INSTALL}."
        ) from None
    return ray


def _check_that_something_answers(address):
    """OSError where nothing listens. Ray itself tries for minutes, and then ends the process without a word."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or (_CURRENT.read_text().strip() if _CURRENT.is_file() else "")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # A name that Ray may know.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise OSError(f"nothing answers at {host}:{port}: {error.strerror or error}") from None


def _at(node):
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _weights_there(graph, comfyui, options):
    """(digest, "") on the machine where it runs, or ("", what is wrong there)."""
    try:
        return weight_digest(graph, base_directory(find_comfyui(comfyui), options)), ""
    except ConsisIDError as error:
        return "", str(error)
