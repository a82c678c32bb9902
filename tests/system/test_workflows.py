"""The templates in workflows/: what is drawn is what runs, nothing lies on top of anything else, and every one runs."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from consisid_pack.consisid_core.face.identity_file import read_identity
from consisid_pack.consisid_core.weights.parts import PARTS, REPOSITORY
from helpers import ROOT
from helpers.served import demo
from helpers.templates import (
    HEIGHT,
    NEWER_NODES,
    TEMPLATES,
    WIDTH,
    camera_pan,
    clip,
    drawn,
    frame_count,
    input_files,
    needs_newer,
)

VIDEOS = [name for name in TEMPLATES if name != "consisid_identity_save"]
NOTES = ("MarkdownNote", "Note")
TITLE_BAR = 30
"""Pixels that a node's title takes above its position, and a group's below it."""
OTHER_MODELS = {
    "RealESRGAN_x4plus.safetensors": (
        "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
        "upscale_models",
    ),
    "rife_v4.26.safetensors": (
        "https://huggingface.co/Comfy-Org/frame_interpolation/resolve/main/frame_interpolation/rife_v4.26.safetensors",
        "frame_interpolation",
    ),
}
"""Address and folder of models that are not ConsisID's."""
LENGTHS = {"consisid_smooth_and_large": f"49 frames of {2 * WIDTH} x {2 * HEIGHT} at 24 fps"}
"""What the video of a template measures in test size, if not `frame_count` frames at 8 fps."""

for_each_template = pytest.mark.parametrize("name", TEMPLATES)
for_each_that_runs = pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_newer(name)])


def twin(name):
    """The template as the server takes it."""
    return json.loads((ROOT / "tests" / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def nodes_that_run(workflow):
    return [node for node in workflow["nodes"] if node["type"] not in NOTES]


def widget_values(node):
    """{widget: value}; some widgets store a second value, for a control that the server never sees."""
    values, taken = iter(node["widgets_values"]), {}
    for name in (socket["widget"]["name"] for socket in node["inputs"] if "widget" in socket):
        taken[name] = next(values)
        if name == "seed":
            assert next(values) in ("fixed", "increment", "decrement", "randomize")
        if (node["type"], name) in (("LoadImage", "image"), ("LoadVideo", "file")):
            assert next(values) == "image"
    assert next(values, None) is None, f"{node['type']} stores more values than it has widgets"
    return taken


def as_prompt(workflow):
    """The drawn graph in the format of the server's /prompt."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in nodes_that_run(workflow):
        inputs = widget_values(node)
        if node["type"] == "SaveVideo":  # Newer servers look for the codec below the format.
            inputs["format.codec"] = inputs["codec"]
        inputs.update({i["name"]: sources[i["link"]] for i in node["inputs"] if i["link"] is not None})
        title = node.get("title", node["type"])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


# What is drawn


def test_every_template_has_a_twin_and_no_twin_is_orphaned():
    assert TEMPLATES == sorted(path.stem for path in (ROOT / "tests" / "workflows").glob("*.json"))


@for_each_template
def test_template_is_its_twin(name):
    assert as_prompt(drawn(name)) == twin(name)


@for_each_template
def test_links_agree_on_both_ends(name):
    workflow = drawn(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"]) and workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    at_outputs, at_inputs = {}, {}
    for node in nodes.values():
        for slot, output in enumerate(node["outputs"]):
            at_outputs.update({i: (node["id"], slot, output["type"]) for i in output["links"] or []})
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"] is not None:
                at_inputs[socket["link"]] = (node["id"], slot, socket["type"])
    links = {i: ((a, out, kind), (b, into, kind)) for i, a, out, b, into, kind in workflow["links"]}
    assert len(links) == len(workflow["links"])
    assert links.keys() == at_outputs.keys() == at_inputs.keys()
    for i, (source, (target, into, kind)) in links.items():
        assert source == at_outputs[i] and (target, into) == at_inputs[i][:2]
        assert kind in at_inputs[i][2].split(",") or at_inputs[i][2] == "*"
    for (source, *_), (target, *_) in links.values():
        assert nodes[source]["order"] < nodes[target]["order"]
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0], "the graph reads from left to right"


@for_each_template
def test_nodes_say_which_pack_they_come_from(name):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pack, version, oldest = (
        re.search(pattern, project, flags=re.M)[1]
        for pattern in ('^name = "(.+)"$', '^version = "(.+)"$', 'requires-comfyui = ">=(.+)"')
    )
    for node in nodes_that_run(drawn(name)):
        ours = node["type"].startswith("ConsisID")
        properties = node["properties"]
        core = ("comfy-core", NEWER_NODES.get(node["type"], oldest))
        assert (properties["cnr_id"], properties["ver"]) == ((pack, version) if ours else core)
        assert properties["Node name for S&R"] == node["type"] and node["mode"] == 0


@for_each_template
def test_single_safetensors_files_can_be_fetched_by_the_frontend(name):
    """Older frontends offer nothing but .safetensors from known hosts, and no folders of shards."""
    released = {f"{part.target}/{part.weights}" if part.weights else part.target: part for part in PARTS}
    for node in nodes_that_run(drawn(name)):
        values = [str(value) for value in node.get("widgets_values", [])]
        files = [value for value in values if value.endswith(".safetensors") and not value.startswith("consisid_demo/")]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == files
        for model in models:
            if model["name"] in OTHER_MODELS:
                assert (model["url"], model["directory"]) == OTHER_MODELS[model["name"]]
                continue
            part = released[model["name"]]
            remote = f"{part.remote[0]}/{part.weights}" if part.weights else part.remote[0]
            assert model["url"] == f"https://huggingface.co/{REPOSITORY}/resolve/main/{remote}"
            assert model["directory"] == part.folder


# How it is laid out


def rectangle(node):
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def overlap(a, b, gap=0):
    return min(a[2], b[2]) + gap > max(a[0], b[0]) and min(a[3], b[3]) + gap > max(a[1], b[1])


@for_each_template
def test_nodes_lie_in_groups_and_apart(name):
    workflow = drawn(name)
    for a, b in itertools.combinations(workflow["nodes"], 2):
        assert not overlap(rectangle(a), rectangle(b), gap=10), (a["id"], b["id"])
    groups = {}
    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        groups[group["title"]] = (x, y + TITLE_BAR, x + width, y + height)
    assert len(groups) == len(workflow["groups"]) and all(title.strip() for title in groups)
    for a, b in itertools.combinations(groups.values(), 2):
        assert not overlap(a, b, gap=TITLE_BAR - 10)
    filled = set()
    for node in workflow["nodes"]:
        x, y, right, bottom = rectangle(node)
        around = [t for t, g in groups.items() if x > g[0] and y > g[1] and right < g[2] and bottom < g[3]]
        assert len(around) == 1, (node["id"], around)
        filled.update(around)
    assert filled == set(groups)


# What the notes say


@for_each_template
def test_notes_are_short_and_say_what_to_load_and_what_to_do(name):
    workflow = drawn(name)
    notes = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    assert len(notes) == 2 and all(200 < len(note) < 1000 and note.startswith("## ") for note in notes)
    text = "\n".join(notes)
    for word in ("1. **", "**Run.**"):
        assert word in text
    if name != "consisid_demo":
        assert "consisid_core.weights download COMFYUI" in text
        for node in nodes_that_run(workflow):
            if node["type"].startswith("ConsisID") and node["type"].endswith("Loader"):
                for file in widget_values(node).values():
                    paths = [file, *map(str, Path(file).parents)][:-1]
                    assert "/" not in file or any(f"*{path}*" in text for path in paths), file
        assert "*antelopev2*" in text
    assert set(re.findall(r"consisid_(?!core\b)\w+", text)) <= set(TEMPLATES)


# How it runs


@pytest.fixture(scope="module")
def info(served):
    return served.object_info()


def in_test_size(name):
    """The template with 2 steps and few small frames."""
    graph = twin(name)
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
        if node["class_type"] == "ConsisIDGlobalIDExtractor":
            node["inputs"].update(width=WIDTH, height=HEIGHT, length=frame_count(name))
        if node["class_type"] == "VAEDecodeTiled":
            node["inputs"]["tile_size"] = 64
        if node["class_type"] == "ImageScale":
            node["inputs"].update(width=WIDTH, height=HEIGHT)
        if node["class_type"] == "ImageFromBatch":
            node["inputs"]["length"] = 17
        if node["class_type"] == "ContextWindowsManual":
            node["inputs"].update(context_length=3, context_overlap=1)
    return graph


@pytest.fixture(scope="module")
def saved(served):
    """The identity file that consisid_identity_save writes, and what the template shows.

    Made once: a server that has just done so takes the same graph from its cache, and writes no file.
    """
    outputs, _ = served.outputs(in_test_size("consisid_identity_save"), input_files())
    return served.base / "models" / "consisid" / "identities" / "portrait.safetensors", outputs


@pytest.fixture(scope="module")
def frames(served, tmp_path_factory, request):
    """Frames of a template, each run once. Identities are saved, by their own template, before they are loaded."""
    finished = {}

    def run(name):
        if name not in finished:
            if name == "consisid_identity_to_video":
                request.getfixturevalue("saved")
            finished[name], video = served.frames(in_test_size(name), input_files())
            file = demo.save_without_overwriting(tmp_path_factory.mktemp("video"), video)
            usual = f"{frame_count(name)} frames of {WIDTH} x {HEIGHT} at 8 fps"
            assert demo.describe_video(file).startswith(LENGTHS.get(name, usual))
        return finished[name]

    return run


@for_each_that_runs
def test_nodes_are_drawn_as_the_server_describes_them(name, info):
    """Sockets in the order of the server's, so that links and stored values meet the right ones in the frontend."""
    for node in nodes_that_run(drawn(name)):
        described = info[node["type"]]
        names = [i for kind in ("required", "optional") for i in described["input_order"].get(kind, [])]
        for drawn_names in (
            [i["name"] for i in node["inputs"] if "widget" in i],
            [i["name"] for i in node["inputs"] if "widget" not in i],
        ):
            assert [i for i in names if i in drawn_names] == drawn_names, node["type"]
        given = {i["name"] for i in node["inputs"] if i["link"] is not None or "widget" in i}
        assert set(described["input_order"].get("required", [])) <= given, node["type"]
        outputs = list(zip(described["output_name"], described["output"], strict=True))
        assert [(o["name"], o["type"]) for o in node["outputs"]] == outputs[: len(node["outputs"])], node["type"]


def missing_inputs(given, described, prefix=""):
    """Required inputs that a node of the API format leaves out, those of the chosen option of a list included."""
    missing = []
    for kind in ("required", "optional"):
        for name, (type_, *options) in described.get(kind, {}).items():
            path = prefix + name
            if path not in given:
                missing += [path] * (kind == "required" and type_ != "COMFY_AUTOGROW_V3")
            elif type_ == "COMFY_DYNAMICCOMBO_V3":
                (chosen,) = [option for option in options[0]["options"] if option["key"] == given[path]]
                missing += missing_inputs(given, chosen["inputs"], f"{path}.")
    return missing


@for_each_that_runs
def test_graph_gives_all_inputs_that_the_server_asks_for(name, info):
    """The server itself checks nothing below a list of options; clients such as comfy-cli do, and refuse the graph."""
    for node in twin(name).values():
        assert missing_inputs(node["inputs"], info[node["class_type"]]["input"]) == [], node["class_type"]


@pytest.mark.parametrize("name", [name for name in VIDEOS if not needs_newer(name)])
def test_template_makes_a_video(name, frames):
    pictures = frames(name)
    assert pictures.shape == (frame_count(name), HEIGHT, WIDTH, 3) and pictures.std() > 5


def test_identity_is_saved(served, saved):
    file, outputs = saved
    face = read_identity(file)
    (shown,) = served.pictures(outputs["20"])
    assert face.embedding.shape == (1, 512)
    np.testing.assert_array_equal(shown, (face.image[0].numpy() * 255).astype(np.uint8))


def test_saved_identity_makes_the_video_of_its_photo(frames):
    np.testing.assert_array_equal(frames("consisid_identity_to_video"), frames("consisid_text_to_video"))


def test_several_photos_are_all_used(served, frames):
    assert np.abs(frames("consisid_several_photos").astype(int) - frames("consisid_text_to_video")).max() > 2
    outputs, _ = served.outputs(in_test_size("consisid_several_photos"), input_files())
    crops = served.pictures(outputs["4"])
    assert crops.shape == (3, 512, 512, 3)
    for a, b in itertools.combinations(crops.astype(int), 2):
        assert np.abs(a - b).mean() > 3


def test_low_memory_changes_little(frames):
    """fp8 weights and tiles: another video in every pixel's last digits, the same video to the eye."""
    usual, frugal = (frames(name).astype(int) for name in ("consisid_text_to_video", "consisid_low_memory"))
    difference = np.abs(usual - frugal)
    assert 0 < difference.mean() < usual.std() / 4, (difference.mean(), usual.std())


@pytest.mark.skipif(needs_newer("consisid_two_gpus"), reason="this ComfyUI has no MultiGPU CFG Split")
def test_the_split_for_two_gpus_changes_nothing_where_there_is_one(frames):
    np.testing.assert_array_equal(frames("consisid_two_gpus"), frames("consisid_text_to_video"))


needs_newer_nodes = pytest.mark.skipif(
    needs_newer("consisid_smooth_and_large"), reason="this ComfyUI has not the nodes"
)
needs_newer_windows = pytest.mark.skipif(needs_newer("consisid_long_video"), reason="windows leave the face's latents")


@pytest.mark.parametrize("name", [name for name in TEMPLATES if needs_newer(name)])
def test_a_template_for_newer_versions_says_so(served, name):
    """In its note, and in one sentence when it is run all the same."""
    notes = [node["widgets_values"][0] for node in drawn(name)["nodes"] if node["type"] in NOTES]
    assert any("**Needs ComfyUI" in note for note in notes)
    with pytest.raises(demo.UserError, match="Update ComfyUI to 0.33|FrameInterpolationModelLoader|MultiGPU_WorkUnits"):
        served.frames(in_test_size(name), input_files())


@needs_newer_windows
def test_windows_of_a_long_video_all_see_the_face(served, frames):
    graph = in_test_size("consisid_long_video")
    graph["20"]["inputs"]["cond_retain_index_list"] = ""
    faceless, _ = served.frames(graph, input_files())
    difference = np.abs(frames("consisid_long_video").astype(int) - faceless).mean(axis=(1, 2, 3))
    assert difference[9:].min() > 5 * difference[:5].max(), difference  # Frames of the second window, of the first.


def test_video_to_video_starts_from_the_clip(served, frames):
    """The less is made anew, the nearer the video is to the clip as the VAE gives it back."""

    def made(denoise):
        graph = in_test_size("consisid_video_to_video")
        graph["14"]["inputs"]["denoise"] = denoise
        return served.frames(graph, input_files())[0].astype(int)

    clip_again = made(0.0)
    distances = [np.abs(made(0.1) - clip_again).mean(), np.abs(frames("consisid_video_to_video") - clip_again).mean()]
    assert 0.5 < distances[0] < distances[1] / 1.5, distances

    mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in camera_pan()]
    other, _ = served.frames(in_test_size("consisid_video_to_video"), {**input_files(), "clip.mp4": clip(mirrored)})
    assert np.abs(other.astype(int) - frames("consisid_video_to_video")).mean() > 1


def test_a_clip_that_is_too_short_is_refused(served):
    short = {**input_files(), "clip.mp4": clip(camera_pan()[:10])}
    with pytest.raises(
        demo.UserError, match=f"GLOBAL_ID is made for {WIDTH}x{HEIGHT}, 17 frames, but the latent .* 9 frames"
    ):
        served.frames(in_test_size("consisid_video_to_video"), short)


@needs_newer_nodes
def test_enlarged_frames_stay_where_frames_are_put_between_them(served):
    graph = in_test_size("consisid_smooth_and_large")
    for name, node in (("large", "22"), ("smooth", "24")):
        graph[name] = {"class_type": "SaveImage", "inputs": {"images": [node, 0], "filename_prefix": name}}
    outputs, _ = served.outputs(graph, input_files())
    large, smooth = (served.pictures(outputs[name]).astype(int) for name in ("large", "smooth"))
    assert large.shape == (17, 2 * HEIGHT, 2 * WIDTH, 3) and smooth.shape == (49, *large.shape[1:])
    assert np.array_equal(smooth[::3], large) and large.std() > 5
    between = np.abs(smooth[1::3] - large[:-1]).mean(axis=(1, 2, 3))
    assert between.min() > 0.1, between
