"""Workers as threads of this process: of servers that it starts, or that it only asks."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

from ...errors import ConsisIDError
from ..tasks import Outcome, Task
from . import Event


class Maker(Protocol):
    """What a thread drives: `worker.Worker`."""

    def start(self) -> None:
        """Be ready, or raise ConsisIDError."""

    def make(self, task: Task) -> Outcome:
        """Do a task, or raise ConsisIDError when no further one can be done."""

    def close(self) -> None:
        """End whatever runs; called from another thread."""


class Threads:
    """A thread for each worker: the part that `Local` and `Urls` have in common."""

    def __init__(self) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self._tasks: dict[str, queue.SimpleQueue[Task | None]] = {}
        self._makers: dict[str, Maker] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = False

    def launch(self, makers: dict[str, Maker]) -> None:
        """Begin to start workers, by name."""
        for name, maker in makers.items():
            self._tasks[name], self._makers[name] = queue.SimpleQueue(), maker
            self._threads[name] = threading.Thread(target=self._work, args=(name,), daemon=True)
            self._threads[name].start()

    def give(self, worker: str, task: Task) -> None:
        """As `Backend.give`."""
        self._tasks[worker].put(task)

    def events(self, seconds: float) -> list[Event]:
        """As `Backend.events`."""
        try:
            found = [self._events.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def is_dead(self) -> bool:
        """As `Backend.is_dead`."""
        return self._events.empty() and not any(thread.is_alive() for thread in self._threads.values())

    def close(self) -> None:
        """As `Backend.close`."""
        self._closing = True
        for name, maker in self._makers.items():
            self._tasks[name].put(None)
            maker.close()
        for name, thread in self._threads.items():
            thread.join()
            self._makers[name].close()  # What it has started in the meantime.

    def _work(self, name):
        maker, tasks = self._makers[name], self._tasks[name]
        try:
            maker.start()
            self._events.put(Event(name))
            while not self._closing and (task := tasks.get()) is not None:
                self._events.put(Event(name, maker.make(task)))
        except ConsisIDError as error:
            self._events.put(Event(name, gone=str(error)))
        # A thread that ends without a word would leave its task waiting for ever.
        except Exception as error:
            self._events.put(Event(name, gone=f"It failed unexpectedly ({type(error).__name__}: {error})."))
