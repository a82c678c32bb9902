import json

import pytest
from consisid_pack.consisid_core.batch.graph import DEFAULT, Graph, read_graph, sources, title
from consisid_pack.consisid_core.batch.table import Row
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers import ROOT
from helpers.batch import demo_graph, node, plain_graph


def row(photos=(), **values):
    return Row("manifest.csv, line 2", photos, {name.replace("__", "."): value for name, value in values.items()}, "s")


@pytest.fixture
def graph():
    return Graph(demo_graph(), "demo.json")


def test_columns_find_their_places(graph):
    filled, own = graph.filled(
        row(("a",), prompt="Reads.", negative="rain", seed="7", **{"14.cfg": "5", "ConsisIDSampler.steps": 3}),
        ["a.png"],
    )
    assert filled["1"]["inputs"]["image"] == "a.png"
    assert [filled[number]["inputs"]["text"] for number in ("11", "12")] == ["Reads.", "rain"]
    sampler = filled["14"]["inputs"]
    assert (sampler["seed"], sampler["cfg"], sampler["steps"]) == (7, 5.0, 3) and isinstance(sampler["cfg"], float)
    # What comes from the row: everything but the loaders.
    assert own == graph.nodes.keys() - {"2", "6", "7", "8"}
    assert graph.nodes == demo_graph(), "the graph itself stays as it is"
    assert graph.told(filled, "prompt") == "Reads." and graph.told(filled, "seed") == "7"


@pytest.mark.parametrize("file", sorted((ROOT / "tests/workflows").glob("consisid_*.json")), ids=lambda file: file.stem)
def test_every_template_of_a_video_takes_prompt_and_seed(file):
    graph = read_graph(file)
    if any("seed" in node["inputs"] for node in graph.nodes.values()):
        graph.filled(row(prompt="Reads.", seed=1), [])


def test_an_input_whose_name_has_a_dot_is_found(graph):
    filled, _ = graph.filled(row(**{"17.format.codec": "h264", "Photo of the person.image": "b.png"}), [])
    assert filled["17"]["inputs"]["format.codec"] == "h264" and filled["1"]["inputs"]["image"] == "b.png"


@pytest.mark.parametrize(
    ("values", "photos", "message"),
    [
        ({"99.steps": 1}, [], r"line 2: 99.steps: demo.json has no node of this number or title"),
        ({"14.stops": 1}, [], r"14.stops: node 14 of demo.json has no such input; it has seed, steps"),
        ({"14.model": "x"}, [], r"14.model: this input is a wire"),
        ({"14.steps": "many"}, [], r"14.steps: 'many' is not a whole number"),
        ({"14.cfg": "x"}, [], r"14.cfg: 'x' is not a number"),
        ({"9.keypoints": "perhaps"}, [], r"'perhaps' is not true or false"),
        ({}, ["a.png", "b.png"], r"names 2 photos, and demo.json loads 1"),
    ],
)
def test_what_the_graph_has_no_place_for_is_said(graph, values, photos, message):
    with pytest.raises(ConsisIDError, match=message):
        graph.filled(row(tuple(photos), **values), photos)


def test_titles_and_seeds_that_are_not_clear_are_refused():
    nodes = plain_graph()
    with pytest.raises(ConsisIDError, match=r"no inputs named seed. Name one with its node, such as '14.seed'"):
        Graph(nodes, "plain.json").place("seed")
    nodes["5"] = node("EmptyImage", "colour", color=1)
    with pytest.raises(ConsisIDError, match="2 nodes titled 'colour'. Name one by its number"):
        Graph(nodes, "plain.json").place("Colour.color")
    with pytest.raises(ConsisIDError, match="no texts that lead to 'negative'"):
        Graph(nodes, "plain.json").place("negative")


def test_a_graph_that_leaves_gpus_idle_is_refused():
    graph = read_graph(ROOT / "tests/workflows/consisid_two_gpus.json")
    graph.check_split(2)
    with pytest.raises(ConsisIDError, match="consisid_two_gpus.json does not split a video over 3 GPUs"):
        graph.check_split(3)
    with pytest.raises(ConsisIDError, match="demo.json does not split a video over 2 GPUs.*MultiGPU CFG Split"):
        Graph(demo_graph(), "demo.json").check_split(2)


def test_files_that_are_no_graph_are_refused(tmp_path):
    file = tmp_path / "graph.json"
    for content, message in (
        ("{", "not valid JSON"),
        (json.dumps({"nodes": []}), r"saved workflow, not a graph in API format.*Export \(API\)"),
        ("[]", "no graph in API format"),
        ('{"1": {"inputs": {}}}', "no graph in API format"),
    ):
        file.write_text(content)
        with pytest.raises(ConsisIDError, match=message):
            read_graph(file)
    with pytest.raises(ConsisIDError, match="cannot be read"):
        read_graph(tmp_path / "none.json")


def test_the_default_is_there():
    nodes = read_graph(DEFAULT).nodes
    assert title(nodes, "11") == "Prompt" and "1" in sources(nodes, "17") and "4" not in sources(nodes, "17")
