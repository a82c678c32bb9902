import json

import pytest
from consisid_pack.consisid_core.batch.graph import Graph
from consisid_pack.consisid_core.batch.plan import Plan
from consisid_pack.consisid_core.batch.table import read_table
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import demo_graph, write_run
from PIL import Image

MANIFEST = "photo,prompt,seed\n{}\n"


def plan(folder, rows, weights="w", head="photo,prompt,seed", graph=None):
    write_run(folder, demo_graph(), f"{head}\n{rows}\n")
    return Plan(folder, Graph(graph or demo_graph(), "graph.json"), read_table(folder), weights)


def key(*arguments, **options):
    return plan(*arguments, **options).items[0].key


def test_the_key_goes_by_content(tmp_path):
    rows = "photos/anna.png,Reads.,1"
    base = key(tmp_path / "a", rows)
    # Neither by the folder nor by the photo's name nor by columns that say what the graph says.
    assert key(tmp_path / "b", rows) == base
    (tmp_path / "a/photos/anna.png").rename(tmp_path / "b/photos/other.png")
    assert key(tmp_path / "b", "photos/other.png,Reads.,1") == base
    assert key(tmp_path / "a", "photos/anna.png,Reads.,1,10", head="photo,prompt,seed,14.steps") != base
    assert key(tmp_path / "a", "photos/anna.png,Reads.,1,1", head="photo,prompt,seed,14.steps") == base
    graph = demo_graph()
    graph["14"]["inputs"]["cfg"] = 7.0
    others = [
        key(tmp_path / "a", "photos/anna.png,Walks.,1"),
        key(tmp_path / "a", "photos/anna.png,Reads.,2"),
        key(tmp_path / "a", "photos/eve.png,Reads.,1"),
        key(tmp_path / "a", rows, weights="others"),
        key(tmp_path / "a", rows, graph=graph),
    ]
    assert len({base, *others}) == 6
    Image.new("RGB", (64, 64)).save(tmp_path / "a/photos/anna.png")
    write = plan(tmp_path / "c", rows)
    Image.new("RGB", (64, 64)).save(tmp_path / "c/photos/anna.png")
    replaced = Plan(tmp_path / "c", write.graph, [item.row for item in write.items], "w").items[0].key
    assert replaced not in {base, *others}, "another photo under the same name"


def test_items_are_ordered_by_model_and_photo(tmp_path):
    rows = "\n".join(
        f"photos/{photo}.png,{seed},{model}"
        for photo, seed, model in [
            ("anna", 1, "x"), ("eve", 1, "y"), ("eve", 2, "x"), ("anna", 2, "y"), ("anna", 3, "x"), ("eve", 3, "y")
        ]
    )  # fmt: skip
    items = plan(tmp_path, rows, head="photo,seed,7.model_name").items
    order = [(item.row.values["7.model_name"], item.row.photos[0][7], item.row.values["seed"]) for item in items]
    assert order == [
        ("x", "a", "1"),
        ("x", "a", "3"),
        ("x", "e", "2"),
        ("y", "e", "1"),
        ("y", "e", "3"),
        ("y", "a", "2"),
    ]
    assert len({item.models for item in items}) == 2


def test_the_same_video_is_made_once(tmp_path, caplog):
    items = plan(tmp_path, "photos/anna.png,Reads.,1\nphotos/anna.png,Reads.,1").items
    assert len(items) == 1 and "line 3 asks for the same video as" in caplog.text


def test_a_task_carries_what_its_server_needs(tmp_path):
    made = plan(tmp_path, "photos/anna.png,Reads.,1")
    (item,) = made.items
    (name,) = made.face_names(item)
    face = made.face_task(item, name)
    assert face.is_face and face.key == name and face.own_nodes == {"1", "3", "save"}
    (photo,) = face.files
    assert (
        photo.name == face.graph["1"]["inputs"]["image"] and photo.read() == (tmp_path / "photos/anna.png").read_bytes()
    )
    task = made.task(item, lambda name: tmp_path / name)
    assert [(file.name, file.is_identity) for file in task.files] == [(name, True)] and "1" not in task.graph
    assert task.own_nodes <= task.graph.keys() and "14" in task.own_nodes and "7" not in task.own_nodes
    whole = made.task(item, None)
    assert [file.is_identity for file in whole.files] == [False] and whole.graph.keys() == demo_graph().keys()
    assert whole.key == task.key and task.label.startswith("anna_s1_")


def test_a_photo_that_is_no_picture_costs_its_item(tmp_path):
    made = plan(tmp_path, "graph.json,Reads.,1")
    with pytest.raises(ConsisIDError, match="graph.json cannot be read as a picture"):
        made.task(made.items[0], None)


def test_every_row_that_does_not_fit_the_graph_is_named(tmp_path):
    with pytest.raises(ConsisIDError, match=r"(?s)2 rows to correct.*line 2: seed: 'x'.*line 4: seed: 'y'"):
        plan(tmp_path, "photos/anna.png,a,x\nphotos/anna.png,a,1\nphotos/anna.png,a,y")


def test_what_a_manifest_says_of_a_video(tmp_path):
    made = plan(tmp_path, "photos/anna.png,,")
    said = made.described(made.items[0], tmp_path / "a.mp4")
    assert said["prompt"].startswith("A person") and said["seed"] == "42" and said["system"] == "unnamed"
    assert json.dumps(said["reference"], default=str).endswith('photos/anna.png"]')
