"""ComfyUI's own frontend in a headless browser, as a user meets the pack: templates, photo, run, video, files.

CONSISID_SCREENSHOTS names a folder for pictures of what each test leaves on the screen.
"""

import io
import json
import os
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.browser import IN_DIALOG, Page
from helpers.served import Run, demo, link_released_names
from helpers.templates import (
    HEIGHT,
    NEWER_NODES,
    TEMPLATES,
    WIDTH,
    drawn,
    frame_count,
    input_files,
    needs_newer,
    write_enlarging_models,
)
from PIL import Image
from skimage import data

SAVED = ROOT / "tests" / "workflows_old"
OLD = SAVED / "frontend_1.32.9.json"
NOTHING_OVER_THE_GRAPH = {"Comfy.Minimap.Visible": False, "Comfy.VersionCompatibility.DisableWarnings": True}
CANCELLED_STEPS = 500


@pytest.fixture(scope="module")
def server(tmp_path_factory, models_dir):
    """A server that has made nothing before, with the photos of the templates, and the tiny files under the released
    ones' names too."""
    base = tmp_path_factory.mktemp("server")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True, **NOTHING_OVER_THE_GRAPH}))
    models = tmp_path_factory.mktemp("released")
    link_released_names(models_dir, models)
    write_enlarging_models(models)
    with Run(base, models) as run:
        for name, content in input_files().items():
            (base / "input" / name).write_bytes(content)
        run.object_info()
        yield run


@pytest.fixture(scope="module")
def browser(server):
    programs = demo.environment.find_browser()
    if programs is None:
        pytest.skip("no Chrome or Chromium with a chromedriver of its version (Debian: chromium, chromium-driver)")
    page = Page(programs, server.server.url)
    yield page
    page.driver.quit()


@pytest.fixture
def page(browser, request, tmp_path):
    browser.open()
    yield browser
    folder = Path(os.environ.get("CONSISID_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    browser.screenshot(folder / f"{name}.png")


def check_graph(shown, workflow, is_older=False):
    """The page holds the workflow's nodes, values and links, has all nodes and offers all values.

    is_older: whether an older version of the pack has saved it, since which nodes have got inputs at their end.
    """
    assert set(shown["nodes"]) == {str(node["id"]) for node in workflow["nodes"]}
    for node in workflow["nodes"]:
        there, values = shown["nodes"][str(node["id"])], node["widgets_values"]
        assert (there["type"], there["missing"], there["not_offered"]) == (node["type"], False, [])
        # ComfyUI's own nodes have grown; their new widgets stand behind the older ones.
        grown = is_older or not node["type"].startswith("ConsisID")
        assert there["widgets"][: len(values) if grown else None] == values, node["type"]
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert shown["links"] == sorted(
        [str(a), nodes[a]["outputs"][out]["name"], str(b), nodes[b]["inputs"][into]["name"]]
        for _, a, out, b, into, _ in workflow["links"]
    )


def shrink(page, seed=0, length=5):
    """Two steps of few small frames."""
    page.set_widgets("ConsisIDGlobalIDExtractor", width=WIDTH, height=HEIGHT, length=length)
    for sampler in ("ConsisIDSampler", "KSampler"):
        page.set_widgets(sampler, steps=2, seed=seed)
    page.set_widgets("VAEDecodeTiled", tile_size=64)
    page.set_widgets("ContextWindowsManual", context_length=3, context_overlap=1)
    page.set_widgets("ImageFromBatch", length=17)
    page.set_widgets("ImageScale", width=WIDTH, height=HEIGHT)


def run_to_the_end(page):
    page.run()
    end = page.wait_for_end()
    assert end["kind"] == "execution_success", end


def fetch(address):
    with urllib.request.urlopen(address) as response:
        return response.read()


def pixels(address):
    return np.array(Image.open(io.BytesIO(fetch(address))).convert("RGB")).astype(int)


def save_identity(page):
    page.open_template("consisid_identity_save")
    run_to_the_end(page)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_newer(name)])
def test_template_opens_and_runs(page, server, name):
    identity = server.base / "models" / "consisid" / "identities" / "portrait.safetensors"
    if name == "consisid_identity_to_video" and not identity.is_file():
        save_identity(page)
        page.open()
    page.open_template(name)
    check_graph(page.graph(), drawn(name))

    length = frame_count(name)
    shrink(page, length=length)
    run_to_the_end(page)
    if name == "consisid_identity_save":
        assert identity.is_file()
        assert pixels(page.pictures("ConsisIDSaveIdentity")[0]).shape == (512, 512, 3)
    elif name == "consisid_smooth_and_large":
        _, *size, seconds = page.play_video()
        assert size == [2 * WIDTH, 2 * HEIGHT] and seconds == pytest.approx(49 / 24, abs=0.05)
    else:
        _, *size, seconds = page.play_video()
        assert size == [WIDTH, HEIGHT] and seconds == pytest.approx(length / 8, abs=0.05)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if needs_newer(name)])
def test_template_for_newer_versions_opens_and_names_what_is_missing(page, name):
    page.open_templates()
    page.click(IN_DIALOG.format(name))
    page.wait("return app.graph.nodes.length > 0", "a graph")
    shown, workflow = page.graph(), drawn(name)
    assert set(shown["nodes"]) == {str(node["id"]) for node in workflow["nodes"]}
    missing = {node["type"] for node in shown["nodes"].values() if node["missing"]}
    assert missing <= set(NEWER_NODES)
    if missing:
        text = page.wait("return document.querySelector('[role=dialog]')?.innerText", "a dialog")
        assert all(node in text for node in missing)


def test_every_template_has_a_picture_of_itself(page):
    page.open_templates()
    page.wait_for_template_pictures(
        {name: list(Image.open(ROOT / "workflows" / f"{name}.jpg").size) for name in TEMPLATES}
    )


def test_photo_is_uploaded_and_its_face_shown(page, tmp_path):
    page.open_template("consisid_demo")
    file = tmp_path / "my photo.png"
    photo = data.astronaut()[:, ::-1]
    Image.fromarray(photo).save(file)
    page.upload_photo(file)
    node = "app.graph.nodes.find((n) => n.type === 'LoadImage')"
    page.wait(f"return {node}.widgets[0].value === 'my photo.png'", "upload")
    page.wait(f"return /my.{{1,3}}photo/.test({node}.imgs?.[0]?.src)", "the uploaded picture in place of the old one")
    assert np.array_equal(pixels(page.pictures("LoadImage")[0]), photo)

    page.set_widgets("ConsisIDSampler", steps=6, seed=1)
    run_to_the_end(page)
    sampler = next(str(node["id"]) for node in drawn("consisid_demo")["nodes"] if node["type"] == "ConsisIDSampler")
    progress = [(event["value"], event["max"]) for event in page.seen("progress") if str(event["node"]) == sampler]
    assert progress[-1] == (6, 6) and progress == sorted(progress) and len(progress) >= 6
    page.wait_for_text("ConsisIDSampler", "6 steps in ")
    page.wait_for_text("ConsisIDModelLoader", "/")  # The path of weights that are named as random ones.
    # The photo itself, with the box and the landmarks drawn on it.
    changed = np.abs(pixels(page.pictures("ConsisIDFaceAnalyzer")[0]) - photo).max(axis=-1) > 60
    assert 0.002 < changed.mean() < 0.1
    assert pixels(page.pictures("PreviewImage")[0]).shape == (512, 512, 3)
    page.play_video()


def test_cancelled_in_the_middle_and_run_again(page):
    page.open_template("consisid_demo")
    page.set_widgets("ConsisIDSampler", steps=CANCELLED_STEPS, seed=2)
    page.run()
    sampling = f"return seen.some((event) => event.max === {CANCELLED_STEPS} && event.value >= 2)"
    page.wait(sampling, "the second step")
    page.cancel()
    assert page.wait_for_end()["kind"] == "execution_interrupted"
    assert max(event["value"] for event in page.seen("progress")) < CANCELLED_STEPS

    page.set_widgets("ConsisIDSampler", steps=2)
    run_to_the_end(page)
    page.play_video()


def test_workflow_of_the_oldest_supported_frontend_runs(page):
    """The demo as that frontend, the one that ComfyUI 0.3.75 requires, has saved it."""
    workflow = json.loads(OLD.read_text(encoding="utf-8"))
    page.drop(OLD)
    check_graph(page.graph(), workflow, is_older=True)
    shrink(page, seed=3)
    run_to_the_end(page)
    page.play_video()


@pytest.mark.parametrize("version", ["0.3.75", "0.33.0"])
def test_videos_to_compare_stay_linked_whichever_version_saved_the_workflow(page, version):
    """The older one saves six numbered inputs, the newer one those that have grown."""
    file = SAVED / f"compare_videos_{version}.json"
    page.drop(file)
    check_graph(page.graph(), json.loads(file.read_text(encoding="utf-8")))
    run_to_the_end(page)
    page.pictures("ConsisIDCompareVideos")


def test_dropped_results_bring_their_graph_back(page, tmp_path):
    page.open_template("consisid_demo")
    shrink(page, seed=4)
    # No other test does this; a picture from the server's cache would hold the graph that made it first.
    page.set_widgets("ConsisIDFaceAnalyzer", background="keep")
    made_from = page.graph()
    run_to_the_end(page)
    for kind, address in (("mp4", page.play_video()[0]), ("png", page.pictures("PreviewImage")[0])):
        file = tmp_path / f"result.{kind}"
        file.write_bytes(fetch(address))
        page.empty()
        page.drop(file)
        assert page.graph() == made_from
