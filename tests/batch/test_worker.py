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
    rejected = worker.make(trouble({"no": "text"}))
    assert rejected.kind is Kind.REFUSED and "how" in rejected.sentence
    nothing = plain_graph()
    nothing["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    silent = worker.make(task("n", nothing))
    assert silent.kind is Kind.BROKEN and "needs a node that saves one, Save Video" in silent.sentence


def test_want_of_memory_and_a_broken_gpu_are_no_fault_of_the_item(worker, tmp_path):
    assert worker.make(trouble(f"memory {tmp_path / 'once'}")).kind is Kind.MEMORY
    assert worker.make(trouble(f"memory {tmp_path / 'once'}")).kind is Kind.MADE, "on a server as at the start"
    assert worker.make(trouble(f"device {tmp_path / 'other'}")).kind is Kind.LOST


def test_a_server_that_dies_is_started_again(worker, tmp_path):
    outcome = worker.make(trouble(f"die {tmp_path / 'once'}"))
    assert outcome.kind is Kind.LOST and "The connection to the ComfyUI at" in outcome.sentence
    assert worker.make(trouble(f"die {tmp_path / 'once'}")).kind is Kind.MADE


def test_a_server_that_hangs_is_started_again(server, node_types, tmp_path):
    worker = Worker(server, node_types, stall=3)
    outcome = worker.make(trouble(f"hang {tmp_path / 'once'}"))
    assert outcome.kind is Kind.STALLED and outcome.sentence.startswith("No progress for 3 s. Its log")
    assert Worker(server, node_types, 600).make(trouble(f"hang {tmp_path / 'once'}")).kind is Kind.MADE


def test_a_server_of_somebody_else_does_the_same(server, node_types):
    worker = Worker(ForeignServer(server.url), node_types, 600)
    first = worker.make(trouble(color=5))
    assert first.kind is Kind.MADE and worker.make(trouble(color=5)).content == first.content


def test_photos_are_where_the_graph_loads_them(worker, server):
    worker.make(task("k", trouble().graph, "234", files=(File("photo_1.png", b"photo"),)))
    assert (server.folder / "input" / "photo_1.png").read_bytes() == b"photo"
