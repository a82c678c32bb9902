import pytest
from consisid_pack.consisid_core.batch.server import ForeignServer
from consisid_pack.consisid_core.batch.tasks import File, Kind
from consisid_pack.consisid_core.batch.worker import Worker
from helpers.batch import plain_graph, task


def trouble(how="", color=3, own="234"):
    graph = plain_graph()
    graph["1"]["inputs"]["color"], graph["2"]["inputs"]["how"] = color, how
    return task("k", graph, own)


@pytest.fixture
def worker(server, node_types):
    return Worker(server, node_types, stall=600)


def test_a_task_becomes_a_file(worker):
    outcome = worker.make(trouble())
    assert outcome.kind is Kind.MADE and outcome.suffix == ".mp4" and outcome.content[4:8] == b"ftyp"
    # The same graph once more: the server has it in its cache and would save nothing.
    assert worker.make(trouble()).content == outcome.content


def test_a_failure_costs_the_item_or_the_graph(worker):
    outcome = worker.make(trouble("fail"))
    assert outcome.kind is Kind.REFUSED and outcome.sentence == "Trouble: It does not work."
    assert worker.make(trouble("fail", own="34")).kind is Kind.BROKEN
    rejected = worker.make(trouble(color=-1, own="1234"))
    assert rejected.kind is Kind.REFUSED and rejected.sentence.startswith("Colour: ") and "color" in rejected.sentence
    assert worker.make(trouble(color=-1)).kind is Kind.BROKEN
    nothing = plain_graph()
    nothing["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    silent = worker.make(task("n", nothing))
    assert silent.kind is Kind.BROKEN and "needs a node that saves one, Save Video" in silent.sentence


def test_want_of_memory_and_a_lost_server_are_no_fault_of_the_item(server, node_types, tmp_path):
    """Every time the server is started anew, and the next task is made."""
    worker = Worker(server, node_types, stall=600)
    for what, kind, sentence in (
        ("device", Kind.LOST, "Trouble: CUDA error: an illegal memory access"),
        ("die", Kind.LOST, "The connection to the ComfyUI at http://127.0.0.1:"),
        ("hang", Kind.STALLED, "No progress for 5 s. Its log"),
    ):
        before, worker.stall = server.url, 5 if what == "hang" else 600  # A busy machine is no hung server.
        outcome = worker.make(trouble(f"{what} {tmp_path / what}"))
        assert outcome.kind is kind and outcome.sentence.startswith(sentence), outcome
        worker.start()
        assert server.url != before
    worker.stall = 600
    assert worker.make(trouble(f"hang {tmp_path / 'hang'}")).kind is Kind.MADE


def test_a_server_of_somebody_else_does_the_same(server, node_types, tmp_path):
    worker = Worker(ForeignServer(server.url), node_types, 600)
    outcome = worker.make(trouble(f"memory {tmp_path / 'memory'}"))
    assert outcome.kind is Kind.MEMORY and outcome.sentence.startswith("Allocation on device failed")
    first = worker.make(trouble(color=5))
    assert first.kind is Kind.MADE and worker.make(trouble(color=5)).content == first.content


def test_photos_are_where_the_graph_loads_them(worker, server):
    worker.make(task("k", trouble().graph, "234", files=(File("photo_1.png", b"photo"),)))
    assert (server.folder / "input" / "photo_1.png").read_bytes() == b"photo"
