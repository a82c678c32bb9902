"""The documents say what the code does: help pages against schemas, README against nodes, workflows and messages."""

import json
import re

import pytest
from helpers import ROOT
from helpers.signatures import NODE_IDS, sockets

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HELP = ROOT / "nodes" / "web" / "docs"
# Where the files that a loader's widgets name lie, below ComfyUI's models folder.
FOLDERS = {
    "model_name": "diffusion_models",
    "vae_name": "vae",
    "text_encoder_name": "text_encoders",
    "lora_name": "loras",
    "insightface_pack": "insightface/models",
    "face_parsing": "consisid",
    "eva_clip": "consisid",
    "curricular_face": "consisid",
    "inception": "consisid",
    "clip": "consisid",
    "identity": "consisid/identities",
}
FILE_KINDS = ["file", "folder", "file or folder of shards"]


def help_page(node_id):
    return (HELP / f"{node_id}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_shows_the_node(node_id):
    """The frontend takes pictures from below the folder of the help pages."""
    (address,) = re.findall(r"^!\[.+\]\((.+)\)$", help_page(node_id), flags=re.M)
    assert address == f"images/{node_id}.jpg" and (HELP / address).is_file()


def section(page, title):
    """The text below a second-level heading."""
    parts = re.split(r"^## (.+)$", page, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert title in sections, f"no section {title!r}"
    return sections[title]


def table(text):
    """The cells of a section's table, row by row, without its head."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1, "rows of different lengths"
    return [[cell.strip() for cell in row] for row in rows[2:]]


def described(page, title):
    """(name, facts) of every row "| `name` | description<br>*facts* |" of a section's table."""
    rows = []
    for name, cell in table(section(page, title)):
        match = re.fullmatch(r"[^<]{10,}<br>\*([^<*]+)\*", cell)
        assert re.fullmatch("`[^`]+`", name) and match, (name, cell)
        rows.append((name.strip("`"), match[1]))
    return rows


def output_name(output):
    return output.display_name or output.get_io_type()


# Help pages


def test_every_node_has_a_help_page_and_no_page_is_orphaned(node_classes):
    assert set(node_classes) == set(NODE_IDS) == {page.stem for page in HELP.glob("*.md")}


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_has_the_title_and_sections(node_id, node_classes):
    page = help_page(node_id)
    assert page.startswith(f"# {node_classes[node_id].define_schema().display_name}\n")
    headings = re.findall(r"^## (.+)$", page, flags=re.M)
    assert headings == ["Inputs", "Outputs", "Typical values", "Errors and cures", "Reference"]


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_names_the_inputs_of_the_schema(node_id, node_classes):
    inputs = sockets(node_classes[node_id].define_schema())
    rows = described(help_page(node_id), "Inputs")
    assert [name for name, _ in rows] == [i.id for i in inputs]
    for (name, facts), socket in zip(rows, inputs, strict=True):
        assert facts in documented(socket), name


def documented(socket):
    """What a help page may say of an input's type, range or options, and default."""
    kind, default = socket.get_io_type(), getattr(socket, "default", None)
    if kind == "COMBO":
        if socket.id in FOLDERS:  # A list of files: the page names their folder.
            end = "" if default is None else f"; default `{default}`"
            return [f"COMBO, {what} in `models/{FOLDERS[socket.id]}`{end}" for what in FILE_KINDS]
        return [f"COMBO, {', '.join(f'`{option}`' for option in socket.options)}; default `{default}`"]
    if kind == "BOOLEAN":
        return [f"BOOLEAN; default `{json.dumps(default)}`"]
    if kind in ("INT", "FLOAT"):
        step = f", step {socket.step}" if socket.step is not None else ""
        return [f"{kind}, {socket.min}–{socket.max}{step}; default `{default}`"]
    return [f"{kind.replace(',', ' or ')}, {'optional' if socket.optional else 'required'}"]


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_names_the_outputs_of_the_schema(node_id, node_classes):
    outputs = [(output_name(o), o.get_io_type()) for o in node_classes[node_id].define_schema().outputs]
    assert described(help_page(node_id), "Outputs") == outputs


# Messages


@pytest.fixture(scope="module")
def source():
    """The pack's Python source, with string literals that continue on the next line joined."""
    files = [*(ROOT / "consisid_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("document", ["README", *NODE_IDS])
def test_quoted_messages_exist(document, source):
    """A message quoted in the first column stands in the code; … stands for what varies."""
    if document == "README":
        rows = table(section(README, "Troubleshooting"))
    else:
        rows = table(section(help_page(document), "Errors and cures"))
    quotes = [quote for cell, _ in rows for quote in re.findall(r"`([^`]{8,})`", cell)]
    assert quotes
    for quote in quotes:
        for part in quote.split("…"):
            assert part.strip() in source, f"no message with {part.strip()!r}"


# README


def test_readme_lists_every_node(node_classes):
    schemas = {node_id: node.define_schema() for node_id, node in node_classes.items()}
    expected = {f"[{schema.display_name}](nodes/web/docs/{node_id}.md)": schema for node_id, schema in schemas.items()}
    rows = table(section(README, "Nodes"))
    assert {row[0] for row in rows} == set(expected) and len(rows) == len(expected)
    for name, wires, _ in rows:
        for output in expected[name].outputs:
            assert output.get_io_type() in wires.split("->")[1], (name, output.get_io_type())


def loader_files(workflow, node_classes):
    """(models sub-folder, value) for every widget of a saved workflow that names a file."""
    for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] in node_classes and node["type"].endswith("Loader"):
            names = [i.id for i in node_classes[node["type"]].define_schema().inputs]
            for name, value in zip(names, node["widgets_values"], strict=True):
                if name in FOLDERS and value != "none":
                    yield FOLDERS[name], value


@pytest.mark.parametrize("workflow", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_readme_says_where_the_files_of_a_workflow_come_from(workflow, node_classes, models_dir):
    assert workflow.stem in README
    places = {re.sub("`", "", row[1]) for row in table(section(README, "Weight files"))}
    files = list(loader_files(workflow, node_classes))
    assert len(files) in (3, 6, 9)  # Face models alone, all weights, or those that measure too.
    for folder, value in files:
        if value.startswith("consisid_demo"):
            assert (models_dir / folder / value).exists() and "consisid_core.dev.tiny MODELS_DIR" in README
        elif folder == "insightface/models":
            assert any(place.startswith(f"models/{folder}/{value}/") for place in places)
        else:
            assert f"models/{folder}/{value}" in places


def test_readme_is_short_and_its_links_and_commands_lead_somewhere():
    assert README.count("\n") < 200
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert re.search(rf"^## {anchor}$", README, flags=re.M | re.I), anchor
    for script in re.findall(r"python (scripts/\S+\.py)", README):
        assert (ROOT / script).is_file(), script
    for option in re.findall(r"`(--[a-z-]+) ?[A-Z]*` (?:takes|leaves)", README):
        assert f'"{option}"' in (ROOT / "scripts" / "demo.py").read_text(encoding="utf-8"), option


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_documents_lead_somewhere_and_name_the_options_that_there_are(document):
    text = document.read_text(encoding="utf-8")
    assert f"docs/{document.name}" in README
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / target).exists(), target
    for script in re.findall(r"python (scripts/\S+\.py)", text):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m (consisid_core\S*[a-z])", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


def test_every_row_of_the_compatibility_page_is_checked():
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    lines = [
        line for line in page.splitlines() if line.startswith("|") and not line.startswith(("| Node", "| Pack", "|--"))
    ]
    assert len(lines) > 30
    for line in lines:
        _, _, result, checked = (cell.strip() for cell in line.strip("|").split(" | "))
        assert re.match(r"\*\*(works|needs|does nothing|wrong|cannot)\*\*", result), result
        tests = re.findall("`([^`]+)`", checked)
        assert tests or "](#" in checked, line
        for test in tests:
            file, _, name = test.rpartition("::")
            source = (ROOT / (file or "tests/comfyui/test_compatibility.py")).read_text(encoding="utf-8")
            assert f"def {name}(" in source, test


def test_development_page_lists_the_options_of_the_demo():
    page = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    program = (ROOT / "scripts" / "demo.py").read_text(encoding="utf-8")
    rows = table(section(page, "demo.py: videos from the command line"))
    listed = {option for row in rows for option in re.findall("`(--[a-z-]+)`", row[0])}
    assert listed == set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', program))


def test_api_page_names_nodes_and_inputs_of_the_graph():
    graph = json.loads((ROOT / "docs" / "api" / "consisid_text_to_video.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = table(section(page, "The workflow in the API format"))
    assert len(rows) == 5
    for nodes, inputs in rows:
        for number in re.findall(r"`(\d+)`", nodes):
            title = graph[number]["class_type"].replace("ConsisID", "ConsisID ")
            assert title.replace(" ", "") in nodes.replace(" ", ""), number
            assert set(re.findall("`([a-z_]+)`", inputs)) <= set(graph[number]["inputs"]), number


def test_versions_agree():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, flags=re.M).group(1)
    assert re.search(r"^## (\S+) - ", CHANGELOG, flags=re.M).group(1) == version
    minimum = re.search(r'requires-comfyui = ">=(.+)"', project).group(1)
    assert f"ComfyUI {minimum} or newer" in README
