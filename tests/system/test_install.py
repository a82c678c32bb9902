"""Installing the pack as ComfyUI-Manager, comfy-cli and the registry do: what it moves, what is packed, what is said.

pip resolves each requirement against an environment that holds ComfyUI's packages in name only (their metadata), so
nothing is downloaded but metadata. `scripts/check_install.py` does the same for real, with the real programs.
"""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from consisid_pack.consisid_core.batch.server import free_port
from helpers import ROOT
from helpers.processes import SECONDS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Line by line, without comments: what ComfyUI-Manager hands to pip.
LINES = [
    line
    for line in (raw.split("#")[0].strip() for raw in (ROOT / "requirements.txt").read_text("utf-8").splitlines())
    if line
]
NEVER_NAMED = re.compile(r"(torch.*|numpy|opencv-.*|transformers|tokenizers|safetensors|pillow|huggingface-hub)")
# Packages of a ComfyUI installed at the end of 2025 and only ever updated by its requirements, which they still meet:
# name -> (version, what it requires).
OLDER = {
    "huggingface-hub": ("0.36.0", ["httpx", "filelock", "fsspec", "packaging", "pyyaml", "requests", "tqdm"]),
    "tokenizers": ("0.22.1", ["huggingface-hub<2.0,>=0.16.4"]),
    "transformers": ("4.57.3", ["huggingface-hub<1.0,>=0.34.0", "tokenizers<=0.23.0,>=0.22.0", "safetensors>=0.4.3"]),
    "safetensors": ("0.7.0", []),
}


# Requirements


def test_requirements_mirror_the_project_and_name_nothing_of_comfyui():
    assert [str(Requirement(line)) for line in LINES] == [
        str(Requirement(d)) for d in PROJECT["project"]["dependencies"]
    ]
    for line in LINES:
        assert not NEVER_NAMED.fullmatch(canonicalize_name(Requirement(line).name)), line
    assert not (ROOT / "install.py").exists(), "nothing may run at installation"


class Environment:
    """A virtual environment that holds packages in name only, for pip's resolver."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False)
        self.python = next(path for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.exists())
        self.site = folder / "Lib/site-packages" if os.name == "nt" else next(folder.glob("lib/python*/site-packages"))
        self.versions = {}

    def add(self, name, version, requires, extras=()):
        """Installs a package's metadata, in place of another version's."""
        name = canonicalize_name(name)
        if name in self.versions:
            shutil.rmtree(self.site / self._folder(name))
        self.versions[name] = version
        folder = self.site / self._folder(name)
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "INSTALLER").write_text("pip\n", encoding="utf-8")
        (folder / "RECORD").write_text("", encoding="utf-8")

    def _folder(self, name):
        return f"{name.replace('-', '_')}-{self.versions[name]}.dist-info"

    def install(self, requirement):
        """`pip install` of one requirement; returns what it installs or replaces: name -> (version before, after)."""
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--dry-run", "--quiet"]
        result = subprocess.run([*command, "--report", "-", requirement], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(result.stderr)
        changes = {}
        for item in json.loads(result.stdout)["install"]:
            data = item["metadata"]
            name = canonicalize_name(data["name"])
            changes[name] = (self.versions.get(name), data["version"])
            self.add(name, data["version"], data.get("requires_dist", []), data.get("provides_extra", []))
        return changes


def comfyui_packages():
    """The installed distributions that ComfyUI's own requirements lead to."""
    text = (Path(os.environ["COMFYUI_PATH"]) / "requirements.txt").read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    todo, found = [Requirement(line) for line in lines if line], {}
    visited = set()
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in visited:
            continue
        visited.add(key)
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # A package that only another ComfyUI needs.
        found[key[0]] = distribution
        for line in distribution.requires or []:
            child = Requirement(line)
            extras = requirement.extras or {""}
            if not child.marker or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)
    return found


@pytest.fixture(scope="module")
def package_index():
    """Skips what asks pip where it reaches no package index."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "--retries", "1", "--timeout", "20", "index", "versions", "timm"],
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        pytest.skip(
            f"NOT TESTED what an installation moves: pip reaches no package index ({asked.stderr.strip()[-200:]})"
        )


@pytest.fixture
def comfyui(package_index, tmp_path):
    """An environment with ComfyUI's packages as they are installed here, and nothing of this pack's."""
    environment = Environment(tmp_path / "venv")
    for name, distribution in comfyui_packages().items():
        extras = distribution.metadata.get_all("Provides-Extra") or []
        environment.add(name, distribution.version, distribution.requires or [], extras)
    assert {"torch", "torchvision", "torchaudio", "numpy", "transformers", "safetensors", "pillow"} <= {
        *environment.versions
    }
    assert not {"diffusers", "insightface", "onnxruntime", "timm"} & {*environment.versions}
    return environment


def install_line_by_line(environment):
    """Every requirement in a pip call of its own; returns what was new and what was replaced."""
    new, replaced = {}, {}
    for line in LINES:
        for name, (before, after) in environment.install(line).items():
            (replaced if before else new)[name] = (line, before, after)
    return new, replaced


def test_nothing_of_comfyui_is_replaced(comfyui):
    new, replaced = install_line_by_line(comfyui)
    assert not replaced
    assert {canonicalize_name(Requirement(line).name) for line in LINES} <= set(new)
    assert [name for name in new if name.startswith("opencv")] == ["opencv-python"]
    assert new["opencv-python"][0].startswith("insightface")


def test_nothing_of_an_older_comfyui_is_replaced(comfyui):
    for name, (version, requires) in OLDER.items():
        comfyui.add(name, version, requires)
    _, replaced = install_line_by_line(comfyui)
    assert not replaced


@pytest.mark.parametrize(("package", "version"), [("numpy", "1.26.4"), ("opencv-contrib-python", "4.11.0.86")])
@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="insightface asks for opencv-python by name, which overwrites the cv2 of any other OpenCV package, and for"
    " onnx; the newest of both ask for numpy 2. No requirement of ours can say otherwise.",
)
def test_numpy_1_and_another_opencv_stay(comfyui, package, version):
    comfyui.add(package, version, [])
    (line,) = [line for line in LINES if line.startswith("insightface")]
    changes = comfyui.install(line)
    assert package not in changes
    assert package == "numpy" or "opencv-python" not in changes


# The archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The pack as the registry serves it: what git tracks or would track, without .comfyignore, unpacked."""
    folder = tmp_path_factory.mktemp("archive") / "comfyui-consisid"

    def listed(*options):
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", *options]
        return set(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")) - {""}

    packed = listed("--exclude-standard") - listed("--ignored", f"--exclude-from={ROOT / '.comfyignore'}")
    file = folder.parent / "node.zip"
    with zipfile.ZipFile(file, "w") as writer:
        for name in sorted(packed):
            writer.write(ROOT / name, name)
    with zipfile.ZipFile(file) as reader:
        reader.extractall(folder)
    return folder


def test_archive_holds_what_users_need_and_nothing_else(archive):
    top = {path.name for path in archive.iterdir()}
    assert {"__init__.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt"} <= top
    assert {"consisid_core", "nodes", "workflows"} <= top
    assert not top & {"tests", "scripts", ".ci", ".github", ".git", ".gitignore", ".venv", ".cache", "demo_output"}
    for folder in ("workflows", "nodes/web/docs"):
        tracked = {path.name for path in (ROOT / folder).iterdir()}
        assert tracked and {path.name for path in (archive / folder).iterdir()} == tracked
    assert sum(path.stat().st_size for path in archive.rglob("*")) < 20e6


@pytest.fixture(scope="module")
def server(archive, tmp_path_factory):
    """The address of a real ComfyUI with nothing but the archive in its custom_nodes."""
    base = tmp_path_factory.mktemp("base")
    for name in ("models", "input", "output", "temp", "user"):
        (base / name).mkdir()
    shutil.copytree(archive, base / "custom_nodes" / "comfyui-consisid")
    port = free_port()
    command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    log = base / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=os.environ["COMFYUI_PATH"], stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats").close()
                break
            assert process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
            time.sleep(0.5)
        else:
            pytest.fail(f"ComfyUI does not answer: {log.read_text('utf-8', 'replace')[-3000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def fetched(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def test_comfyui_serves_all_of_the_archive(server, archive, node_classes):
    nodes = json.loads(fetched(f"{server}/object_info"))
    loaded = {name for name, node in nodes.items() if node["python_module"] == "custom_nodes.comfyui-consisid"}
    assert loaded == set(node_classes)
    for name in loaded:
        page = fetched(f"{server}/extensions/comfyui-consisid/docs/{name}.md")
        assert page == (archive / f"nodes/web/docs/{name}.md").read_text(encoding="utf-8")
    templates = json.loads(fetched(f"{server}/workflow_templates"))["comfyui-consisid"]
    assert set(templates) == {file.stem for file in (ROOT / "workflows").glob("*.json")}


# The registry


def test_project_meets_the_rules_of_the_registry():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", project["name"]) and len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert 20 < len(project["description"]) < 200
    known = {"Operating System :: OS Independent", "Environment :: GPU :: NVIDIA CUDA"}
    assert set(project["classifiers"]) <= known
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    for name in ("Icon", "Banner"):
        assert comfy.get(name, "https://x/y.png").startswith("https://"), name
    assert project.get("urls", {}).get("Repository", "https://x").startswith("https://")


def test_workflows_carry_the_name_under_which_the_registry_knows_the_pack():
    for file in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
            if node["type"].startswith("ConsisID"):
                assert node["properties"]["cnr_id"] == PROJECT["project"]["name"], (file.name, node["type"])


# The workflows of the repository


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def test_publishing_waits_for_the_tests():
    jobs = workflow("publish.yml")["jobs"]
    assert jobs["publish"]["needs"] == "tests" and "if" not in jobs["publish"]
    assert jobs["tests"]["uses"] == "./.github/workflows/test.yml" and jobs["tests"]["needs"] == "metadata"
    tests = workflow("test.yml")["jobs"]["tests"]
    assert ".ci/run" in [step.get("run") for step in tests["steps"]]
    assert not any("continue-on-error" in part for part in [tests, *tests["steps"]])
    oldest = PROJECT["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert f"v{oldest}" in [entry["comfyui"] for entry in tests["strategy"]["matrix"]["include"]]


@pytest.mark.skipif(os.name == "nt", reason="the workflow runs in bash on Linux")
@pytest.mark.parametrize(
    ("tag", "repository", "error"),
    [
        ("v1.2.3", "someone/pack", None),
        ("v1.2.4", "someone/pack", "The tag is v1.2.4"),
        ("v1.2.3", "someone/fork", "The registry asks for the repository"),
    ],
)
def test_only_a_matching_tag_of_this_repository_is_published(tag, repository, error, tmp_path):
    text = 'version = "1.2.3"\n[project.urls]\nRepository = "https://host.example/someone/pack"\n'
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    (script,) = [step["run"] for step in workflow("publish.yml")["jobs"]["metadata"]["steps"] if "run" in step]
    variables = {
        "GITHUB_REF_NAME": tag,
        "GITHUB_SERVER_URL": "https://host.example",
        "GITHUB_REPOSITORY": repository,
    }
    result = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert result.returncode == (1 if error else 0), result
    assert (error or "") in result.stdout
