"""What saved workflows depend on: node ids, sockets, defaults. And how the pack enters ComfyUI."""

import inspect
import json
import os

import pytest
from comfy_api.latest import io
from helpers import ROOT
from helpers.signatures import SIGNATURES, sockets

GRAPHS = sorted((ROOT / "tests" / "workflows").glob("*.json"))


def test_ids_sockets_and_defaults(node_classes):
    actual = {}
    for node_id, node in node_classes.items():
        schema = node.define_schema()
        inputs = {i.id: (i.get_io_type(), getattr(i, "default", None)) for i in sockets(schema)}
        actual[node_id] = (inputs, [o.get_io_type() for o in schema.outputs])
    assert actual == SIGNATURES


def test_inputs_are_the_parameters_of_execute(node_classes):
    for node_id, node in node_classes.items():
        inputs = {i.id for i in node.define_schema().inputs}
        if node_id == "ConsisIDCompareVideos":  # However many there are, one parameter takes them.
            inputs = {"videos" if name.startswith("video_") else name for name in inputs}
        assert set(inspect.signature(node.execute).parameters) == inputs, node


def test_every_node_clears_what_it_showed_in_its_last_run(node_classes):
    for node in node_classes.values():
        assert node.execute.__wrapped__.__qualname__ == f"{node.__name__}.execute", node


def test_every_widget_has_a_tooltip_and_every_node_a_place(node_classes):
    for node_id, node in node_classes.items():
        schema = node.define_schema()
        assert issubclass(node, io.ComfyNode)
        assert schema.category.startswith("ConsisID/") and schema.display_name and schema.description
        for widget in schema.inputs:
            assert widget.tooltip or widget.get_io_type().isupper() and not hasattr(widget, "default"), (
                node_id,
                widget.id,
            )


def test_nodes_are_found_under_other_words(node_classes):
    for node_id, node in node_classes.items():
        schema = node.define_schema()
        if not hasattr(schema, "search_aliases"):  # Before ComfyUI 0.11.
            assert "search_aliases" not in node.GET_NODE_INFO_V1()
            continue
        aliases = node.GET_NODE_INFO_V1()["search_aliases"]
        assert aliases == schema.search_aliases and len(set(map(str.lower, aliases))) == len(aliases) > 0
        names = f"{node_id} {schema.display_name}".lower()
        assert not any(alias.lower() in names for alias in aliases), (node_id, aliases)
        assert issubclass(node, io.ComfyNode)


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_graphs_fit_the_nodes_and_their_ui_twin(file, node_classes):
    graph = json.loads(file.read_text())
    for node in graph.values():
        if node["class_type"] in SIGNATURES:
            assert set(node["inputs"]) == set(SIGNATURES[node["class_type"]][0])
    twin = json.loads((ROOT / "workflows" / file.name).read_text())
    drawn = {str(node["id"]): node for node in twin["nodes"] if node["type"] != "MarkdownNote"}
    assert {i: node["type"] for i, node in drawn.items()} == {i: node["class_type"] for i, node in graph.items()}
    links = {link[0]: (str(link[1]), link[2]) for link in twin["links"]}
    for i, node in drawn.items():
        for socket in node["inputs"]:
            value = graph[i]["inputs"].get(socket["name"])
            if socket["link"] is not None:
                assert links[socket["link"]] == tuple(value)
            elif "widget" in socket:
                assert value in node["widgets_values"]


def test_schemas_list_folders_only_after_they_have_changed(node_classes, models_dir, monkeypatch):
    for node in node_classes.values():
        node.define_schema()
    walked = []
    for name in ("walk", "scandir", "listdir"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, original=original, **k: walked.append(a) or original(*a, **k))
    for node in node_classes.values():
        node.define_schema()
    assert not walked
    new = models_dir / "consisid" / "identities" / "new.safetensors"
    new.parent.mkdir(exist_ok=True)
    new.write_bytes(b"")
    os.utime(new.parent, (1, 1))  # The clock of files may have stood still since.
    (options,) = (i.options for i in node_classes["ConsisIDLoadIdentity"].define_schema().inputs)
    new.unlink()
    assert walked and options == ["new"]


def test_weight_combos_offer_no_saved_identities(node_classes, models_dir):
    import folder_paths

    (models_dir / "consisid/identities").mkdir(exist_ok=True)
    (models_dir / "consisid/identities/anna.safetensors").write_bytes(b"")
    folder_paths.filename_list_cache.clear()
    schema = node_classes["ConsisIDFaceModelsLoader"].define_schema()
    options = {i.id: i.options for i in schema.inputs if i.id in ("face_parsing", "eva_clip")}
    (models_dir / "consisid/identities/anna.safetensors").unlink()
    folder_paths.filename_list_cache.clear()
    assert options["face_parsing"][0].endswith("parsing_bisenet.pth")
    assert options["eva_clip"][0].endswith("EVA02_CLIP_L_336_psz14_s6B.pt")
    assert not any("anna" in name for names in options.values() for name in names)


def test_start_up_is_fast_and_imports_nothing_heavy(run_python):
    output = run_python("""
before = set(sys.modules)
start = time.process_time()  # Of this process, whatever else the machine does.
load_pack()
seconds = time.process_time() - start
heavy = {"diffusers", "timm", "insightface", "onnxruntime", "onnx", "cv2", "skimage", "pandas", "sklearn", "matplotlib"}
print(seconds, *sorted(heavy & (set(sys.modules) - before)))
""")
    seconds, *heavy = output.split()
    assert not heavy
    assert float(seconds) < 0.5


@pytest.mark.parametrize("missing", ["insightface", "onnxruntime", "timm"])
def test_a_missing_library_disables_only_the_face_models(missing, models_dir, run_python):
    arguments = {
        "insightface_pack": "consisid_demo",
        "face_parsing": "consisid_demo/parsing_bisenet.pth",
        "eva_clip": "consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
        "provider": "CPU",
    }
    output = run_python(f"""
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=name)
for name in [name for name in sys.modules if name.split(".")[0] == {missing!r}]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
import folder_paths
loaded = load_pack()
for name in ("diffusion_models", "text_encoders", "vae", "consisid", "insightface"):
    folder_paths.add_model_folder_path(name, {str(models_dir)!r} + "/" + name, is_default=True)
try:
    loaded["ConsisIDFaceModelsLoader"].execute(**{arguments!r})
except Exception as error:
    print(type(error).__name__, error)
loaded["ConsisIDModelLoader"].execute("consisid_demo/transformer", "default")
print("model loads")
""")
    assert output.startswith("ConsisIDError ")
    assert missing in output and "pip install" in output
    assert output.rstrip().endswith("model loads")
