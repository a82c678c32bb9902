"""Which worker makes which item next, and what follows a failure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .tasks import Kind

Thing = TypeVar("Thing")


@dataclass(eq=False)
class Job(Generic[Thing]):
    """An item under way."""

    thing: Thing
    group: Hashable
    """Items of one group use the same models and faces."""
    attempts: int = 0
    """So many workers have been given it."""
    avoid: set[str] = field(default_factory=set)
    """Workers that lost it."""
    alone: bool = False
    """It takes so much memory that nothing else may run beside it."""


class Dispatch(Generic[Thing]):
    """The jobs that wait, in groups, and those that run.

    A worker goes on with its group, then takes one that nobody has begun, and then helps with the largest one.
    """

    def __init__(self, jobs: Iterable[Job[Thing]], attempts: int) -> None:
        """
        Args:
            jobs: in order, group after group.
            attempts: so many workers a job is given to at most.
        """
        self.attempts = attempts
        self._groups: dict[Hashable, deque[Job[Thing]]] = {}
        for job in jobs:
            self._groups.setdefault(job.group, deque()).append(job)
        self._new = deque(self._groups)
        self._at: dict[str, Hashable] = {}
        self._again: deque[Job[Thing]] = deque()
        self._alone: deque[Job[Thing]] = deque()
        self.running: dict[str, Job[Thing]] = {}
        """Worker -> the job that it has."""
        self.waiting = sum(map(len, self._groups.values()))
        """Jobs that wait."""

    def next(self, worker: str, workers: set[str]) -> Job[Thing] | None:
        """The next job of an idle worker, which then has it; None if there is none for it now.

        Args:
            worker: its name.
            workers: all that there are; when every one of them has lost a job, any may have it again.
        """
        job = self._take(worker, workers)
        if job:
            self.waiting -= 1
            job.attempts += 1
            self.running[worker] = job
        return job

    def ended(self, worker: str, kind: Kind) -> tuple[Job[Thing], bool]:
        """Note how a worker's job ended.

        Returns:
            The job, and whether it waits again.
        """
        job = self.running.pop(worker)
        again = False
        if kind in (Kind.LOST, Kind.STALLED):
            again = job.attempts < self.attempts
        elif kind is Kind.MEMORY:
            again, job.alone = not job.alone, True
        if again:
            job.avoid.add(worker)
            (self._alone if job.alone else self._again).append(job)
            self.waiting += 1
        return job, again

    def _take(self, worker, workers):
        if any(job.alone for job in self.running.values()):
            return None
        for _ in range(len(self._again)):
            job = self._again.popleft()
            if worker not in job.avoid or workers <= job.avoid:
                return job
            self._again.append(job)
        group = self._at.get(worker)
        if not self._groups.get(group):
            group = self._at[worker] = self._choose()
        if group is not None:
            jobs = self._groups[group]
            job = jobs.popleft()
            if not jobs:
                del self._groups[group]
            return job
        if self._alone and not self.running:
            return self._alone.popleft()
        return None

    def _choose(self):
        while self._new:
            if (group := self._new.popleft()) in self._groups:
                return group
        return max(self._groups, key=lambda group: len(self._groups[group]), default=None)
