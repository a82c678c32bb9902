"""Runs ConsisID's whole chain on a real ComfyUI server, with tiny random weights: `python scripts/demo.py`.

The first run makes an environment and finds or gets ComfyUI (see environment.py). Then: tiny weight files are written,
ComfyUI is started with this pack in its custom_nodes, the workflow tests/workflows/consisid_demo.json runs on a
portrait, and the video is fetched, decoded and described.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import environment
from environment import CACHE, ROOT, UserError, say

BASE = CACHE / "demo"
GRAPH = ROOT / "tests" / "workflows" / "consisid_demo.json"
START_SECONDS = 300
NODES = {
    "ConsisIDModelLoader",
    "ConsisIDVAELoader",
    "ConsisIDTextEncoderLoader",
    "ConsisIDFaceModelsLoader",
    "ConsisIDLoraLoader",
    "ConsisIDFaceAnalyzer",
    "ConsisIDGlobalIDExtractor",
    "ConsisIDLocalIDExtractor",
    "ConsisIDConditioning",
    "ConsisIDSampler",
    "ConsisIDSaveIdentity",
    "ConsisIDLoadIdentity",
    "ConsisIDBlendLocalID",
}
# Set for the second half of the program, which runs with the environment's Python.
COMFYUI_VARIABLE = "CONSISID_DEMO_COMFYUI"

MEANING = """
What this shows: the whole chain works. A face was found in the picture, its identity was split into the global and the
local part, the sampler ran on both, and the VAE's frames became a video file.
What this does not show: any likeness. The weights are tiny and random, so the video is noise-like texture. The README
says how to get the real weights."""


def main() -> None:
    options = parse_options()
    environment.end_in_order_when_terminated()
    try:
        check_picture_exists(options.image)
        run(options, comfyui_in_environment(options))
    except UserError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photo with a face (default: a NASA portrait)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the person does (default: the workflow's prompt)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the noise (default: the workflow's seed)")
    parser.add_argument("--comfyui", metavar="DIR", help="the ComfyUI to use (default: COMFYUI_PATH, or found)")
    output = "folder for the video (default: demo_output in the repository)"
    parser.add_argument("--output", type=Path, default=ROOT / "demo_output", metavar="DIR", help=output)
    parser.add_argument("--keep-server", action="store_true", help="leave ComfyUI running, to try the nodes in it")
    return parser.parse_args()


def comfyui_in_environment(options: argparse.Namespace) -> Path:
    """Returns the folder of ComfyUI once this program runs in the environment; restarts the program in it before."""
    ready = os.environ.pop(COMFYUI_VARIABLE, None)
    if ready:
        return Path(ready)
    python, comfyui = environment.prepare("demo", options.comfyui)
    environment.replace_process([python, __file__, *sys.argv[1:]], {COMFYUI_VARIABLE: str(comfyui)})


def run(options: argparse.Namespace, comfyui: Path) -> None:
    """The demo itself, in the environment."""
    name, picture = read_picture(options.image)
    graph = read_graph()
    make_base_directory()
    say("Writing tiny random weights")
    if not environment.run_logged([sys.executable, "-m", "consisid_core.tiny", BASE / "models"], cwd=ROOT):
        raise UserError(f"The tiny weights could not be written:\n{environment.tail(environment.LOG)}")
    with Server(comfyui, options.keep_server) as server:
        video = asyncio.run(make_video(server, graph, name, picture, options))
        path = save_without_overwriting(options.output, video)
        say(f"\nVideo: {path}")
        say(describe_video(path))
    say(MEANING)
    if options.keep_server:
        stop = f"taskkill /F /PID {server.process.pid}" if os.name == "nt" else f"kill {server.process.pid}"
        say(f"\nComfyUI keeps running at {server.url}\nStop it with: {stop}")


# Inputs


def check_picture_exists(path: Path | None) -> None:
    if path and not path.is_file():
        raise UserError(f"--image {path} is not a file.")


def read_picture(path: Path | None) -> tuple[str, bytes]:
    """Returns a file name and the bytes of the user's picture, or of the portrait that scikit-image carries."""
    import PIL.Image

    if path is None:
        import skimage.data

        buffer = io.BytesIO()
        PIL.Image.fromarray(skimage.data.astronaut()).save(buffer, "PNG")
        return "demo_portrait.png", buffer.getvalue()
    try:
        with PIL.Image.open(path) as picture:
            picture.load()
        content = path.read_bytes()
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise UserError(
            f"--image {path} cannot be read as a picture ({error}). Give a JPEG, PNG or WebP file."
        ) from error
    return f"demo_photo{path.suffix.lower()}", content


def read_graph() -> dict:
    """Reads the workflow: a dict from node id to class type and inputs, as ComfyUI's /prompt takes it."""
    if not GRAPH.is_file():
        raise UserError(f"{GRAPH} is missing. The demo needs the complete repository, not only the installed pack.")
    return json.loads(GRAPH.read_text(encoding="utf-8"))


def set_inputs(graph: dict, image: str, prompt: str | None, seed: int | None) -> None:
    """Puts the uploaded picture, and the prompt and seed if given, into the graph."""
    find_node(graph, "LoadImage")["inputs"]["image"] = image
    if prompt is not None:
        find_node(graph, "CLIPTextEncode", title="Prompt")["inputs"]["text"] = prompt
    if seed is not None:
        find_node(graph, "ConsisIDSampler")["inputs"]["seed"] = seed


def find_node(graph: dict, class_type: str, title: str | None = None) -> dict:
    """The graph's one node of this type, and of this title if given."""
    nodes = [node for node in graph.values() if node["class_type"] == class_type]
    nodes = [node for node in nodes if title is None or node.get("_meta", {}).get("title") == title]
    if len(nodes) != 1:
        titled = f' titled "{title}"' if title else ""
        raise UserError(f"{GRAPH} must have exactly one {class_type} node{titled}; it has {len(nodes)}.")
    return nodes[0]


def make_base_directory() -> None:
    """Makes ComfyUI's base directory, with a link to this repository among its custom nodes."""
    for name in ("custom_nodes", "models", "input", "output", "user"):
        (BASE / name).mkdir(parents=True, exist_ok=True)
    link = BASE / "custom_nodes" / "comfyui-consisid"
    if link.resolve() == ROOT:
        return
    if os.name == "nt":
        # A junction, because a symbolic link needs special rights on Windows.
        if os.path.lexists(link):
            link.rmdir()
        if not environment.run_logged(["cmd", "/c", "mklink", "/J", link, ROOT]):
            raise UserError(f"{link} could not be linked to {ROOT}:\n{environment.tail(environment.LOG)}")
        return
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT, target_is_directory=True)


# The server


class Server:
    """A ComfyUI process on 127.0.0.1. Leaving the context stops it, unless it is to be kept and all went well."""

    def __init__(self, comfyui: Path, keep: bool):
        self.comfyui = comfyui
        self.keep = keep

    def __enter__(self):
        import torch

        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # A server that is kept goes on writing, so the next one needs another file.
        self.log = BASE / (f"server-{port}.log" if self.keep else "server.log")
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(port)]
        # The database in memory leaves the user's own alone; the default one belongs to the ComfyUI folder.
        command += ["--base-directory", str(BASE), "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
        if not torch.cuda.is_available():
            command.append("--cpu")
        say(f"Starting ComfyUI on the {'CPU' if '--cpu' in command else 'GPU'}; its log is {self.log}")
        options = {"cwd": self.comfyui, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        if self.keep:  # It must not get this terminal's Ctrl-C.
            if os.name == "nt":
                options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
            else:
                options["start_new_session"] = True
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, **options)
        return self

    def __exit__(self, error_type, *_) -> None:
        if self.keep and error_type is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def check_alive(self) -> None:
        code = self.process.poll()
        if code is not None:
            raise UserError(f"ComfyUI ended with exit code {code}. {self.log_tail()}")

    def log_tail(self) -> str:
        return f"Its log, {self.log}, ends with:\n{environment.tail(self.log, 25)}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def make_video(server: Server, graph: dict, name: str, picture: bytes, options: argparse.Namespace) -> bytes:
    """Sends the picture and the graph to the server, waits for the end and returns the video file's bytes."""
    import aiohttp

    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=None)) as session:
        await wait_until_ready(server, session)
        await check_nodes(server, session)
        set_inputs(graph, await upload(session, name, picture), options.prompt, options.seed)
        try:
            prompt_id = await execute(server, session, graph)
            return await fetch_video(session, prompt_id)
        except aiohttp.ClientError as error:
            await asyncio.sleep(1)  # A server that dies closes its connections first.
            server.check_alive()
            raise UserError(f"The connection to ComfyUI failed ({error}). {server.log_tail()}") from error


async def wait_until_ready(server: Server, session) -> None:
    import aiohttp

    start = time.monotonic()
    while time.monotonic() - start < START_SECONDS:
        server.check_alive()
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
            async with session.get("/system_stats", timeout=aiohttp.ClientTimeout(total=10)) as response:
                if response.ok:
                    say(f"ComfyUI is ready at {server.url} after {time.monotonic() - start:.0f} s")
                    return
        await asyncio.sleep(0.5)
    raise UserError(f"ComfyUI did not answer within {START_SECONDS} s. {server.log_tail()}")


async def check_nodes(server: Server, session) -> None:
    async with session.get("/object_info") as response:
        missing = NODES - set(await response.json())
    if missing:
        lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = "\n".join(f"    {line}" for line in lines if "Cannot import" in line) or "    (no import error)"
        raise UserError(
            f"ComfyUI runs, but without these nodes of the pack: {', '.join(sorted(missing))}."
            f" {server.log} says why:\n{reasons}"
        )
    say(f"All {len(NODES)} ConsisID nodes are there")


async def upload(session, name: str, picture: bytes) -> str:
    """Uploads the picture into ComfyUI's input folder; returns the name it has there."""
    import aiohttp

    form = aiohttp.FormData({"overwrite": "true"})
    form.add_field("image", picture, filename=name)
    async with session.post("/upload/image", data=form) as response:
        if not response.ok:
            raise UserError(f"ComfyUI did not take the picture {name}: {await response.text()}")
        return (await response.json())["name"]


async def execute(server: Server, session, graph: dict) -> str:
    """Queues the graph and prints its progress until it has ended; returns the prompt's id."""
    client = uuid.uuid4().hex
    async with session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket_:
        async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as response:
            answer = await response.json()
        if "prompt_id" not in answer:
            raise UserError(validation_message(graph, answer))
        say("Running the workflow")
        await follow(server, socket_, graph, answer["prompt_id"])
    return answer["prompt_id"]


def title_of(graph: dict, node_id: str) -> str:
    node = graph.get(node_id, {})
    return node.get("_meta", {}).get("title") or node.get("class_type", "unknown")


def validation_message(graph: dict, answer: dict) -> str:
    """ComfyUI's answer to a graph that it rejects, as one sentence per fault."""
    lines = ["ComfyUI rejected the workflow."]
    for node_id, report in answer.get("node_errors", {}).items():
        for error in report["errors"]:
            lines.append(f"    Node {node_id} ({title_of(graph, node_id)}): {error['message']} ({error['details']}).")
    if len(lines) == 1:
        lines.append(f"    {answer['error']['message']} ({answer['error']['details']}).")
    return "\n".join(lines)


async def follow(server: Server, socket_, graph: dict, prompt_id: str) -> None:
    """Prints a line per node and per second of its steps; returns when the graph has ended."""
    import aiohttp

    started = 0
    last_line = 0.0
    async for message in socket_:
        if message.type != aiohttp.WSMsgType.TEXT:
            continue  # Preview pictures.
        event = json.loads(message.data)
        kind, data = event["type"], event["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "executing":
            if data["node"] is None:
                return
            started += 1
            say(f"  {started}/{len(graph)} {title_of(graph, data['node'])}")
        elif kind == "progress":
            if data["value"] == data["max"] or time.monotonic() - last_line >= 1:
                last_line = time.monotonic()
                say(f"      step {data['value']} of {data['max']}")
        elif kind == "execution_error":
            where = f"Node {data['node_id']} ({title_of(graph, data['node_id'])})"
            raise UserError(f"{where} failed: {data['exception_message'].strip()}\nThe traceback is in {server.log}.")
        elif kind == "execution_interrupted":
            raise UserError("The workflow was interrupted in ComfyUI.")
    raise aiohttp.ClientConnectionError("the websocket was closed")


# The video


async def fetch_video(session, prompt_id: str) -> bytes:
    """Downloads the MP4 file that the prompt has saved."""
    async with session.get(f"/history/{prompt_id}") as response:
        outputs = (await response.json())[prompt_id]["outputs"]
    files = [entry for output in outputs.values() for entry in output.get("images", [])]
    videos = [entry for entry in files if entry["filename"].endswith(".mp4")]
    if not videos:
        raise UserError(f"The workflow ended without an MP4 file; it saved {[e['filename'] for e in files]}.")
    where = {key: videos[0][key] for key in ("filename", "subfolder", "type")}
    async with session.get("/view", params=where) as response:
        response.raise_for_status()
        return await response.read()


def save_without_overwriting(folder: Path, video: bytes) -> Path:
    """Writes the video under a name that is still free."""
    number = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / (f"consisid_demo_{number}.mp4" if number > 1 else "consisid_demo.mp4")
            with contextlib.suppress(FileExistsError), path.open("xb") as file:
                file.write(video)
                return path.resolve()
            number += 1
    except OSError as error:
        raise UserError(f"The video could not be written to --output {folder} ({error}).") from error


def describe_video(path: Path) -> str:
    """Decodes the video; returns its measures in words."""
    import av
    import numpy

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        frames = numpy.stack([frame.to_ndarray(format="gray") for frame in container.decode(stream)]).astype(float)
    count, height, width = frames.shape
    if frames.min() == frames.max():
        raise UserError(f"All pixels of {path} have the same value, so something in the chain failed silently.")
    change = numpy.abs(numpy.diff(frames, axis=0)).mean() if count > 1 else 0.0
    still = " (a still picture)" if change < 0.5 else ""
    return (
        f"{count} frames of {width} x {height} at {rate:g} fps, {count / rate:.2f} s; of 255, the mean brightness is"
        f" {frames.mean():.1f} and the mean change from frame to frame {change:.1f}{still}"
    )


if __name__ == "__main__":
    main()
