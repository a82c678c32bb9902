from consisid_pack.consisid_core.batch.dispatch import Dispatch, Job
from consisid_pack.consisid_core.batch.tasks import Kind


def jobs(text):
    """Jobs "a1", "a2", "b1": the letter is the group."""
    return [Job(name, name[0]) for name in text.split()]


def test_a_worker_stays_with_its_group_and_then_helps_with_the_largest():
    dispatch = Dispatch(jobs("a1 a2 b1 c1 c2 c3"), attempts=3)
    workers, order = {"x", "y"}, {"x": [], "y": []}
    for worker in "xyxyxy":
        order[worker].append(dispatch.next(worker, workers).thing)
        dispatch.ended(worker, Kind.MADE)
    assert order == {"x": ["a1", "a2", "c2"], "y": ["b1", "c1", "c3"]} or order["x"][:2] == ["a1", "a2"]
    assert not dispatch.waiting and not dispatch.running and dispatch.next("x", workers) is None


def test_what_a_worker_lost_goes_to_another_so_many_times():
    dispatch = Dispatch(jobs("a1 a2"), attempts=2)
    assert dispatch.next("x", {"x", "y"}).thing == "a1"
    job, again = dispatch.ended("x", Kind.LOST)
    assert again and dispatch.waiting == 2
    assert dispatch.next("x", {"x", "y"}).thing == "a2", "not what it has just lost"
    assert dispatch.next("y", {"x", "y"}) is job
    assert dispatch.ended("y", Kind.STALLED) == (job, False)


def test_a_worker_that_is_alone_gets_back_what_it_lost():
    dispatch = Dispatch(jobs("a1"), attempts=3)
    dispatch.next("x", {"x"})
    dispatch.ended("x", Kind.LOST)
    assert dispatch.next("x", {"x"}).attempts == 2


def test_what_every_worker_has_lost_is_not_left_waiting():
    dispatch = Dispatch(jobs("a1"), attempts=3)
    for worker in "xy":
        dispatch.next(worker, {"x", "y"})
        dispatch.ended(worker, Kind.LOST)
    assert dispatch.next("x", {"x", "y"}).attempts == 3


def test_what_needs_more_memory_runs_once_more_with_nothing_beside_it():
    dispatch = Dispatch(jobs("a1 b1 c1"), attempts=3)
    workers = {"x", "y"}
    dispatch.next("x", workers)
    dispatch.next("y", workers)
    large, again = dispatch.ended("x", Kind.MEMORY)
    assert again and dispatch.next("x", workers).thing == "c1"
    dispatch.ended("x", Kind.MADE)
    assert dispatch.next("x", workers) is None, "y is still at work"
    dispatch.ended("y", Kind.MADE)
    assert dispatch.next("x", workers) is large
    assert dispatch.next("y", workers) is None
    assert dispatch.ended("x", Kind.MEMORY) == (large, False)


def test_what_is_refused_is_not_tried_again():
    dispatch = Dispatch(jobs("a1"), attempts=3)
    dispatch.next("x", {"x"})
    assert not dispatch.ended("x", Kind.REFUSED)[1]
