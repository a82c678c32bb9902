"""A run: hands the items of a plan to the workers of a backend until all are made or have failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from ..errors import ConsisIDError
from .backends import Backend
from .dispatch import Dispatch, Job
from .plan import Item, Plan
from .progress import Progress, progress
from .run_folder import RunFolder
from .tasks import Kind, Outcome, Task

_WAIT = 1.0  # seconds for news, so that Ctrl-C is noticed on every system


class Run:
    """Makes what a plan lacks."""

    def __init__(self, folder: RunFolder, plan: Plan, backend: Backend, attempts: int) -> None:
        """
        Args:
            folder: held.
            plan: what is to be made.
            backend: started.
            attempts: so many workers an item is given to, where one is lost or hangs.
        """
        self.folder, self.plan, self.workers = folder, plan, Crew(backend, attempts)
        self.keeps_identities = backend.keeps_identities

    def make(self, items: list[Item]) -> None:
        """Make the videos of items; how each ended is in the folder.

        Raises:
            ConsisIDError: the graph fails in a part that is the same for all, or no worker is left.
            OSError: the folder cannot be written.
        """
        identity = None
        if self.keeps_identities:
            items, identity = self._with_faces(items), self.folder.identity
        self.workers.work(
            [Job(item, (item.models, item.row.photos)) for item in items],
            "videos",
            lambda item: self.plan.task(item, identity),
            self._ended,
        )

    def _ended(self, job, outcome):
        if outcome.kind is Kind.MADE and not outcome.content:
            self.folder.results.read_on()  # The worker has written it.
        else:
            self.folder.keep(job.thing.key, job.thing.label, outcome, job.attempts)

    def _with_faces(self, items):
        """Analyse the faces that are not there yet; returns the items without those whose face failed."""
        names = {item.key: self.plan.face_names(item) for item in items}
        missing: dict[str, Item] = {}
        for item in items:
            for name in names[item.key]:
                if not self.folder.identity(name).is_file():
                    missing.setdefault(name, item)
        failed: dict[str, Outcome] = {}

        def ended(job, outcome):
            name, item = job.thing
            if outcome.kind is not Kind.MADE:
                failed[name] = outcome
            elif outcome.content:
                self.folder.take(self.plan.face_task(item, name), outcome)

        jobs = [Job((name, item), item.models) for name, item in missing.items()]
        self.workers.work(jobs, "faces", lambda thing: self.plan.face_task(thing[1], thing[0]), ended)
        left = []
        for item in items:
            outcome = next((failed[name] for name in names[item.key] if name in failed), None)
            if outcome:
                self.folder.keep(item.key, item.label, outcome)
            else:
                left.append(item)
        return left


class Crew:
    """The workers of a backend, kept busy."""

    def __init__(self, backend: Backend, attempts: int) -> None:
        """
        Args:
            backend: started.
            attempts: as for `Dispatch`.
        """
        self.backend, self.attempts = backend, attempts
        self._idle: deque[str] = deque()
        self._alive: set[str] = set()
        self._last_gone = ""

    def work(
        self,
        jobs: list[Job],
        what: str,
        task: Callable[[object], Task],
        ended: Callable[[Job, Outcome], None],
    ) -> None:
        """Have jobs done.

        Args:
            jobs: in order.
            what: plural of what they make, beside the bar.
            task: makes the task of a job's thing, when a worker is there for it; a ConsisIDError refuses it.
            ended: is told how each job ended for good.

        Raises:
            ConsisIDError: no job can be done, or there is no worker left.
        """
        if not jobs:
            return
        dispatch = Dispatch(jobs, self.attempts)
        with progress(len(jobs), what) as bar:

            def end(worker, outcome, label):
                if outcome.kind is Kind.BROKEN:
                    raise ConsisIDError(
                        f"{outcome.sentence} This is the same for every video, so none can be made. Correct the graph "
                        "or that ComfyUI, and start again."
                    )
                job, again = dispatch.ended(worker, outcome.kind)
                if outcome.kind is not Kind.MADE:
                    then = "It is tried again." if again else "It is left out."
                    bar.say(f"{label}: {outcome.kind.value}: {outcome.sentence} {then}")
                if not again:
                    ended(job, outcome)
                    bar.ended("" if outcome.kind is Kind.MADE else outcome.kind.value)

            labels: dict[str, str] = {}
            while dispatch.waiting or dispatch.running:
                self._hand_out(dispatch, task, end, labels, bar)
                for event in self.backend.events(_WAIT):
                    if event.gone:
                        self._gone(event, bar)
                        if event.worker in dispatch.running:
                            end(event.worker, Outcome("", Kind.LOST, event.gone), labels[event.worker])
                        continue
                    self._alive.add(event.worker)
                    self._idle.append(event.worker)
                    if event.outcome:
                        end(event.worker, event.outcome, labels[event.worker])
                if self.backend.is_dead() and (dispatch.waiting or dispatch.running):
                    raise ConsisIDError(f"There is no worker left. {self._last_gone}")

    def _hand_out(self, dispatch, task, end, labels, bar):
        for _ in range(len(self._idle)):
            worker = self._idle.popleft()
            while job := dispatch.next(worker, self._alive):
                try:
                    made = task(job.thing)
                except ConsisIDError as error:
                    end(worker, Outcome("", Kind.REFUSED, str(error)), "A video")
                    continue
                labels[worker] = made.label
                bar.begin()
                self.backend.give(worker, replace(made, attempts=job.attempts))
                break
            else:
                self._idle.append(worker)

    def _gone(self, event, bar: Progress):
        self._last_gone = event.gone
        self._alive.discard(event.worker)
        if event.worker in self._idle:
            self._idle.remove(event.worker)
        bar.say(f"The worker {event.worker} is gone: {event.gone}")
