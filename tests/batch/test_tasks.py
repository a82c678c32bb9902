import pickle

from consisid_pack.consisid_core.batch.tasks import File, Kind, Outcome, Task


def test_files_are_read_where_they_lie(tmp_path):
    path = tmp_path / "face.safetensors"
    path.write_bytes(b"face")
    assert File("a", b"photo").read() == b"photo" and File("b", path, is_identity=True).read() == b"face"


def test_tasks_and_outcomes_travel():
    task = Task("key", "label", {"1": {}}, frozenset("1"), (File("a", b"photo"),))
    outcome = Outcome("key", Kind.STALLED, "No progress.")
    assert pickle.loads(pickle.dumps((task, outcome))) == (task, outcome)
    assert outcome.kind is Kind.STALLED and Kind("stalled") is Kind.STALLED
