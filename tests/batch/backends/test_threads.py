import time

from consisid_pack.consisid_core.batch.backends.threads import Threads
from consisid_pack.consisid_core.batch.tasks import Kind
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import made, task


class Maker:
    def __init__(self, make=made):
        self._make, self.closed = make, 0

    def start(self):
        pass

    def make(self, task):
        return self._make(task)

    def close(self):
        self.closed += 1


def events(backend, count):
    found = []
    while len(found) < count:
        found += backend.events(5)
    return found


def test_workers_say_that_they_are_ready_and_what_they_made():
    backend, maker = Threads(), Maker()
    backend.launch({"a": maker})
    assert [(event.worker, event.outcome, event.gone) for event in events(backend, 1)] == [("a", None, "")]
    backend.give("a", task("1"))
    (event,) = events(backend, 1)
    assert event.outcome.key == "1" and event.outcome.kind is Kind.MADE and not backend.is_dead()
    backend.close()
    assert maker.closed and backend.is_dead()


def test_a_worker_that_cannot_go_on_says_why():
    def fail(task):
        raise ConsisIDError("Its disk is full.")

    def break_down(task):
        raise RuntimeError("what?")

    backend = Threads()
    backend.launch({"a": Maker(fail), "b": Maker(break_down)})
    events(backend, 2)
    for name in "ab":
        backend.give(name, task())
    gone = {event.worker: event.gone for event in events(backend, 2)}
    assert gone == {"a": "Its disk is full.", "b": "It failed unexpectedly (RuntimeError: what?)."}
    backend.close()
    assert backend.is_dead()


def test_closing_waits_for_nobody_who_hangs():
    class Hanging(Maker):
        def close(self):
            self.closed += 1

        def make(self, task):
            while not self.closed:
                time.sleep(0.01)
            return made(task)

    backend = Threads()
    backend.launch({"a": Hanging()})
    events(backend, 1)
    backend.give("a", task())
    start = time.monotonic()
    backend.close()
    assert time.monotonic() - start < 10
