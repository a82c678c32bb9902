"""Tables and graphs for `consisid_core.batch`, and the command in a process of its own."""

import json
import os
import shlex
import subprocess
import sys

from consisid_pack.consisid_core.batch.tasks import Kind, Outcome, Task
from PIL import Image
from skimage import data

from helpers import ROOT
from helpers.served import QUICKER

DEMO = ROOT / "tests" / "workflows" / "consisid_demo.json"
SECONDS = 900  # that one command may take; other work on the machine slows it

# A node of another pack that fails as it is told, once if a file is named whose existence says that it did.
TROUBLE = """
import os, time, torch

class Trouble:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "how": ("STRING", {"default": ""})}}

    def run(self, images, how):
        what, _, once = how.partition(" ")
        if once:
            if os.path.exists(once):
                return (images,)
            open(once, "w").close()
        if what == "memory":
            raise torch.OutOfMemoryError("Allocation on device failed")
        if what == "device":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if what == "fail":
            raise ValueError("It does not work.")
        if what == "sleep":
            time.sleep(5)
        if what == "hang":
            time.sleep(10**6)
        if what == "die":
            os._exit(3)
        return (images,)

NODE_CLASS_MAPPINGS = {"Trouble": Trouble}
"""


def node(class_type, title="", **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def plain_graph():
    """A graph without any net: a picture of one colour as a video, which fails as node "Trouble" is told."""
    return {
        "1": node("EmptyImage", "Colour", width=64, height=64, batch_size=2, color=0),
        "2": node("Trouble", images=["1", 0], how=""),
        "3": node("CreateVideo", images=["2", 0], fps=8.0),
        "4": node("SaveVideo", video=["3", 0], filename_prefix="video/plain", format="mp4", codec="h264")
        | {"inputs": {"video": ["3", 0], "filename_prefix": "video/plain", "format": "mp4", "codec": "h264",
                      "format.codec": "h264"}},
    }  # fmt: skip


def demo_graph():
    """The text-to-video graph on the tiny files, with one frame and one step."""
    graph = json.loads(DEMO.read_text(encoding="utf-8"))
    graph["9"]["inputs"]["length"] = graph["14"]["inputs"]["steps"] = 1
    return graph


def write_run(folder, graph, manifest):
    """A run folder with two photos of a face and one without; returns it."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    portrait = data.astronaut()
    for name, pixels in (("anna", portrait), ("eve", portrait[:, ::-1]), ("coffee", data.coffee())):
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
    (folder / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    (folder / "manifest.csv").write_text(manifest, encoding="utf-8")
    return folder


def command(folder, base, *options):
    """The command line of a run on ComfyUI servers with a base directory, or without any where base is None."""
    program = [sys.executable, "-m", "consisid_core.batch", folder, "--graph", folder / "graph.json"]
    if base:
        program += ["--comfyui", os.environ["COMFYUI_PATH"]]
        program += ["--server-options", shlex.join([QUICKER, "--base-directory", str(base)])]
    return [str(part) for part in (*program, *options)]


def start(folder, base, *options):
    """The command as a process whose output is read as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command(folder, base, *options), cwd=ROOT, **pipes)


def run(folder, base, *options):
    """(exit code, what it printed)."""
    with start(folder, base, *options) as process:
        output = process.communicate(timeout=SECONDS)[0]
    return process.returncode, output


def lines(folder):
    """Every line of the run's state."""
    files = sorted((folder / "batch").glob("results_videos*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def videos(folder):
    """Name -> content."""
    return {file.name: file.read_bytes() for file in sorted((folder / "videos").glob("*.mp4"))}


def task(key="key", graph=None, own=(), **fields):
    return Task(key, f"video_{key}", graph or {}, frozenset(own), **fields)


def made(task, content=b"video"):
    return Outcome(task.key, Kind.MADE, content=content, suffix=".mp4", seconds=0.1)
