"""A run with workers that do nothing but wait: order, failures, speed, memory."""

import time
from collections import deque

import psutil
import pytest
from consisid_pack.consisid_core.batch.backends.threads import Threads
from consisid_pack.consisid_core.batch.dispatch import Job
from consisid_pack.consisid_core.batch.graph import Graph
from consisid_pack.consisid_core.batch.plan import Plan
from consisid_pack.consisid_core.batch.run import Crew, Run
from consisid_pack.consisid_core.batch.run_folder import RunFolder
from consisid_pack.consisid_core.batch.table import read_table
from consisid_pack.consisid_core.batch.tasks import Kind, Outcome
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import demo_graph, lines, made, node, plain_graph, task, videos, write_run


class Maker:
    """Ends a task after some seconds, as a function of it says."""

    def __init__(self, outcome=made, seconds=0.0, had=None):
        self.outcome, self.seconds = outcome, seconds
        self.had = [] if had is None else had

    def start(self):
        pass

    def make(self, task):
        self.had.append(task)
        time.sleep(self.seconds)
        return self.outcome(task)

    def close(self):
        pass


class Backend(Threads):
    """Those workers as a backend."""

    keeps_identities = True

    def __init__(self, **makers):
        super().__init__()
        self.launch(makers)


def work(backend, jobs, **options):
    """{thing: kind} of jobs."""
    ended = {}
    crew = Crew(backend, options.pop("attempts", 3))
    try:
        crew.work(jobs, "things", lambda thing: task(str(thing)), lambda job, end: ended.update({job.thing: end.kind}))
    finally:
        backend.close()
    return ended


def test_every_job_is_done_once():
    makers = {"a": Maker(), "b": Maker()}
    ended = work(Backend(**makers), [Job(number, number % 3) for number in range(30)])
    assert ended == dict.fromkeys(range(30), Kind.MADE)
    assert sorted(int(task.key) for maker in makers.values() for task in maker.had) == list(range(30))


def test_a_worker_that_goes_costs_no_job():
    def leave(task):
        raise ConsisIDError("Its GPU fell off the bus.")

    makers = {"a": Maker(leave), "b": Maker()}
    assert work(Backend(**makers), [Job(n, n) for n in range(4)]) == dict.fromkeys(range(4), Kind.MADE)
    with pytest.raises(ConsisIDError, match="no worker left. Its GPU fell off the bus"):
        work(Backend(a=Maker(leave)), [Job(0, 0)])


def test_what_is_lost_is_tried_so_many_times_and_then_left_out():
    def lose(task):
        return Outcome(task.key, Kind.LOST if task.key == "1" else Kind.MADE, "Gone.")

    makers = {"a": Maker(lose), "b": Maker(lose)}
    ended = work(Backend(**makers), [Job(n, n) for n in range(3)], attempts=3)
    assert ended == {0: Kind.MADE, 1: Kind.LOST, 2: Kind.MADE}
    assert sum(task.key == "1" for maker in makers.values() for task in maker.had) == 3
    attempts = [task.attempts for maker in makers.values() for task in maker.had if task.key == "1"]
    assert sorted(attempts) == [1, 2, 3]
    assert all(any(task.key == "1" for task in maker.had) for maker in makers.values()), "elsewhere"


def test_a_failure_that_is_the_same_for_all_ends_the_run():
    broken = Maker(lambda task: Outcome(task.key, Kind.BROKEN, "There is no model."))
    with pytest.raises(ConsisIDError, match="There is no model. This is the same for every video"):
        work(Backend(a=broken), [Job(n, n) for n in range(5)])
    assert len(broken.had) == 1


def test_faces_come_first_and_a_refused_one_costs_its_videos(tmp_path):
    rows = "".join(f"photos/{photo}.png,{seed}\n" for photo in ("anna", "coffee", "eve") for seed in range(2))
    write_run(tmp_path, demo_graph(), "photo,seed\n" + rows)
    plan = Plan(tmp_path, Graph(demo_graph(), "graph.json"), read_table(tmp_path), "w")

    def outcome(task):
        return Outcome(task.key, Kind.REFUSED, "No face.") if "coffee" in task.label else made(task)

    maker, folder = Maker(outcome), RunFolder(tmp_path)
    backend = Backend(a=maker)
    with folder.held():
        Run(folder, plan, backend, 3).make(plan.items)
    backend.close()
    assert [task.is_face for task in maker.had] == [True] * 3 + [False] * 4, "one analysis for each photo"
    assert len(videos(tmp_path)) == 4
    assert [line["error"] for line in lines(tmp_path) if "error" in line] == ["No face."] * 2
    assert all(folder.identity(file.name).is_file() for task in maker.had[3:] for file in task.files)


def test_ten_milliseconds_leave_a_thousand_a_minute_and_more():
    count = 200
    start = time.monotonic()
    work(Backend(a=Maker(seconds=0.01)), [Job(n, n // 50) for n in range(count)])
    assert count / (time.monotonic() - start) * 60 >= 1000


def test_memory_stays_flat_over_the_papers_whole_test(tmp_path):
    """13,500 items through plan, dispatch and state: the driver keeps no task and no video."""
    rows = "".join(f"{number},photos/{photo}.png\n" for photo in ("anna", "eve") for number in range(6750))
    graph = plain_graph() | {"9": node("LoadImage", image="portrait.png")}
    write_run(tmp_path, graph, "1.color,photo\n" + rows)
    plan = Plan(tmp_path, Graph(graph, "graph.json"), read_table(tmp_path), "w")
    assert len(plan.items) == 13500
    sizes = []

    class Watched(RunFolder):
        def keep(self, *arguments):
            super().keep(*arguments)
            if len(self.results.by_key) in (1000, 13500):
                sizes.append(psutil.Process().memory_info().rss)

    folder = Watched(tmp_path)
    maker = Maker(lambda task: made(task, bytes(50_000)), had=deque(maxlen=1))
    backend = Backend(a=maker, b=maker)
    with folder.held():
        Run(folder, plan, backend, 3).make(plan.items)
    backend.close()
    assert len(list(folder.videos.iterdir())) == 13500
    # What stays is the index of the results, about a kilobyte each; the videos are 675 MB.
    assert sizes[1] - sizes[0] < 50e6, sizes
