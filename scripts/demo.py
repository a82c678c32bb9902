"""Makes a video on a real ComfyUI server, with tiny random weights or with the released ones: `python scripts/demo.py`.

The first run makes an environment and finds or gets ComfyUI (see environment.py). Then: tiny weight files are written,
or the released ones are looked up (see released.py), ComfyUI is started with this pack in its custom_nodes, a workflow
of tests/workflows runs on a portrait, and the video is fetched, decoded and described.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import html
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import environment
from environment import CACHE, ROOT, UserError, say

sys.path.append(str(ROOT))
from consisid_core.batch.graph import title  # noqa: E402
from consisid_core.command_line import at_least  # noqa: E402

if TYPE_CHECKING:
    import aiohttp

BASE = CACHE / "demo"
GRAPHS = ROOT / "tests" / "workflows"
START_SECONDS = 300
# Each has a help page.
NODES = {page.stem for page in (ROOT / "nodes" / "web" / "docs").glob("*.md")}
# Set for the second half of the program, which runs with the environment's Python.
COMFYUI_VARIABLE = "CONSISID_DEMO_COMFYUI"
WEIGHT_DTYPES = ("default", "bf16", "fp16", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
# ComfyUI's number for a text that a node shows, among the kinds of binary messages.
PROGRESS_TEXT = 3
# Nodes send texts only to clients that say they know ComfyUI's messages.
FEATURE_FLAGS = {"supports_preview_metadata": True}
# What the nodes show of their steps; the progress events say the same.
STEPS_LINE = re.compile(r"Step \d+ of |\d+ steps in |Stopped after step ")

MEANING = """
What this shows: the whole chain works. A face was found in the picture, its identity was split into the global and the
local part, the sampler ran on both, and the VAE's frames became a video file.
What this does not show: any likeness. The weights are tiny and random, so the video is noise-like texture. The README
says how to get the real weights."""

DISCLOSURE = """
The video shows somebody in a scene that never took place. Say so wherever you show it, and show it only with that
person's consent. The file carries its prompt and settings."""


def main() -> None:
    options = parse_options()
    environment.end_in_order_when_terminated()
    try:
        check_picture_exists(options.image)
        run(options, comfyui_in_environment(options))
    except UserError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--weights", choices=("tiny", "released"), default="tiny",
        help="tiny: random ones of test size, written now, for 17 frames of noise (default); released: those of "
        "ConsisID-preview in ComfyUI's models folder, for 49 frames of 720x480",
    )  # fmt: skip
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photo with a face (default: a NASA portrait)")
    the_workflow = "(default: the workflow's)"
    parser.add_argument("--prompt", type=_words, metavar="TEXT", help=f"what the person does {the_workflow}")
    parser.add_argument("--negative", metavar="TEXT", help="what the video should not show (default: nothing)")
    parser.add_argument("--seed", type=at_least(0), metavar="N", help=f"seed of the noise {the_workflow}")
    parser.add_argument("--steps", type=at_least(1), metavar="N", help=f"sampling steps {the_workflow}")
    parser.add_argument("--cfg", type=float, metavar="X", help=f"how closely the prompt is followed {the_workflow}")
    parser.add_argument("--length", type=at_least(1), metavar="N", help=f"frames, 4n+1 {the_workflow}")
    output = "folder or .mp4 file for the video, numbered if it exists (default: demo_output in the repository)"
    parser.add_argument("--output", type=Path, default=ROOT / "demo_output", metavar="PATH", help=output)
    parser.add_argument("--comfyui", metavar="DIR", help="the ComfyUI to use (default: COMFYUI_PATH, or found)")
    parser.add_argument("--keep-server", action="store_true", help="leave ComfyUI running, to try the nodes in it")
    released = parser.add_argument_group("with --weights released")
    released.add_argument(
        "--models", metavar="DIR",
        help="the ComfyUI, with its extra_model_paths.yaml, or the models folder that has the weights (default: those "
        "of the ComfyUI used)",
    )  # fmt: skip
    released.add_argument(
        "--weight-dtype", choices=WEIGHT_DTYPES, help="the transformer's numbers; fp8 takes half the memory"
    )
    released.add_argument(
        "--low-memory", action="store_true", help="fp8 and tiled decoding, and ComfyUI's --lowvram on a GPU"
    )
    options = parser.parse_args()
    if options.weights == "tiny" and (options.models or options.weight_dtype or options.low_memory):
        parser.error("--models, --weight-dtype and --low-memory go with --weights released.")
    return options


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty. Say what the person does, in whole sentences.")
    return text


def comfyui_in_environment(options: argparse.Namespace) -> Path:
    """Return the folder of ComfyUI once this program runs in the environment; restart the program in it before."""
    ready = os.environ.pop(COMFYUI_VARIABLE, None)
    if ready:
        return Path(ready)
    python, comfyui = environment.prepare("demo", options.comfyui)
    environment.replace_process([python, __file__, *sys.argv[1:]], {COMFYUI_VARIABLE: str(comfyui)})


def run(options: argparse.Namespace, comfyui: Path) -> None:
    """Run the demo itself, in the environment."""
    name, picture = read_picture(options.image)
    check_output(options.output)
    make_base_directory()
    if options.weights == "tiny":
        graph, arguments = read_graph("consisid_demo"), []
        say("Writing tiny random weights")
        if not environment.run_logged([sys.executable, "-m", "consisid_core.dev.tiny", BASE / "models"], cwd=ROOT):
            raise UserError(f"The tiny weights could not be written:\n{environment.tail(environment.LOG)}")
    else:
        import released

        graph = read_graph("consisid_low_memory" if options.low_memory else "consisid_text_to_video")
        arguments = released.prepare(graph, options.models or comfyui, options.low_memory, BASE)
    set_inputs(graph, options)
    if options.weights == "released":
        released.warn_without_accelerator(graph)
    with Server(comfyui, options.keep_server, arguments) as server:
        video = asyncio.run(make_video(server, graph, name, picture))
        path = save_without_overwriting(options.output, video)
        say(f"\nVideo: {path}")
        say(describe_video(path))
    say(MEANING if options.weights == "tiny" else DISCLOSURE)
    if options.keep_server:
        stop = f"taskkill /F /PID {server.process.pid}" if os.name == "nt" else f"kill {server.process.pid}"
        say(f"\nComfyUI keeps running at {server.url}\nStop it with: {stop}")


# Inputs


def check_picture_exists(path: Path | None) -> None:
    if path and not path.is_file():
        raise UserError(f"--image {path} is not a file.")


def read_picture(path: Path | None) -> tuple[str, bytes]:
    """Return a file name and the bytes of the user's picture, or of the portrait that scikit-image carries."""
    from consisid_core.errors import ConsisIDError
    from consisid_core.face.photo import portable_photo

    if path is None:
        import PIL.Image
        import skimage.data

        buffer = io.BytesIO()
        PIL.Image.fromarray(skimage.data.astronaut()).save(buffer, "PNG")
        return "demo_portrait.png", buffer.getvalue()
    try:
        content = portable_photo(path)
    except ConsisIDError as error:
        raise UserError(f"--image {error}") from error
    # Another picture has another name, because runs at the same time share ComfyUI's input folder.
    suffix = ".png" if content.startswith(b"\x89PNG") else path.suffix.lower()
    return f"photo_{hashlib.sha256(content).hexdigest()[:12]}{suffix}", content


def check_output(path: Path) -> None:
    """Find out before the work whether the video can be written."""
    folder = path.parent if path.suffix.lower() == ".mp4" else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path} cannot be used ({error}).") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {path} cannot be used: {folder} may not be written to.")


def read_graph(name: str) -> dict:
    """Read a workflow: a dict from node id to class type and inputs, as ComfyUI's /prompt takes it."""
    file = GRAPHS / f"{name}.json"
    if not file.is_file():
        raise UserError(f"{file} is missing. The demo needs the complete repository, not only the installed pack.")
    return json.loads(file.read_text(encoding="utf-8"))


def set_inputs(graph: dict, options: argparse.Namespace) -> None:
    """Put the options that were given into the graph."""
    sampler = find_node(graph, "ConsisIDSampler")
    places = [
        (find_node(graph, "CLIPTextEncode", title="Prompt"), "text", options.prompt),
        (find_node(graph, "CLIPTextEncode", title="Negative prompt"), "text", options.negative),
        (find_node(graph, "ConsisIDGlobalIDExtractor"), "length", options.length),
        (find_node(graph, "ConsisIDModelLoader"), "weight_dtype", options.weight_dtype),
        *((sampler, name, getattr(options, name)) for name in ("seed", "steps", "cfg")),
    ]
    for node, name, value in places:
        if value is not None:
            node["inputs"][name] = value


def find_node(graph: dict, class_type: str, title: str | None = None) -> dict:
    """Return the graph's one node of this type, and of this title if given."""
    nodes = [node for node in graph.values() if node["class_type"] == class_type]
    nodes = [node for node in nodes if title is None or node.get("_meta", {}).get("title") == title]
    if len(nodes) != 1:
        titled = f' titled "{title}"' if title else ""
        raise UserError(f"The workflow must have exactly one {class_type} node{titled}; it has {len(nodes)}.")
    return nodes[0]


def needed_for(graph: dict, class_type: str) -> dict:
    """Return the part of the graph that ends in the nodes of this type."""
    wanted = [node_id for node_id, node in graph.items() if node["class_type"] == class_type]
    part = {}
    while wanted:
        node_id = wanted.pop()
        part[node_id] = graph[node_id]
        wanted += [value[0] for value in graph[node_id]["inputs"].values() if isinstance(value, list)]
    return part


def make_base_directory() -> None:
    """Make ComfyUI's base directory, with a link to this repository among its custom nodes."""
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

    def __init__(self, comfyui: Path, keep: bool, arguments: list[str] | tuple = ()):
        self.comfyui = comfyui
        self.keep = keep
        self.arguments = arguments

    def __enter__(self) -> Server:
        import torch

        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # A server that is kept goes on writing, so the next one needs another file.
        self.log = BASE / (f"server-{port}.log" if self.keep else "server.log")
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(port)]
        # The database in memory leaves the user's own alone; the default one belongs to the ComfyUI folder.
        command += ["--base-directory", str(BASE), "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
        command += self.arguments
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
            killed = " The system killed it, most often because memory ran out." if code == -9 else ""
            raise UserError(f"ComfyUI ended with exit code {code}.{killed} {self.log_tail()}")

    def log_tail(self) -> str:
        return f"Its log, {self.log}, ends with:\n{environment.tail(self.log, 25)}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def make_video(server: Server, graph: dict, name: str, picture: bytes) -> bytes:
    """Send the picture and the graph to the server, wait for the end and return the video file's bytes."""
    import aiohttp

    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=None)) as session:
        await wait_until_ready(server, session)
        await check_nodes(server, session)
        find_node(graph, "LoadImage")["inputs"]["image"] = await upload(session, name, picture)
        try:
            say("Looking for the face")  # Before the large weights are loaded; ComfyUI keeps what comes out.
            await execute(server, session, needed_for(graph, "ConsisIDFaceAnalyzer"))
            say("Running the workflow")
            prompt_id = await execute(server, session, graph)
            return await fetch_video(session, prompt_id)
        except aiohttp.ClientError as error:
            await asyncio.sleep(1)  # A server that dies closes its connections first.
            server.check_alive()
            raise UserError(f"The connection to ComfyUI failed ({error}). {server.log_tail()}") from error


async def wait_until_ready(server: Server, session: aiohttp.ClientSession) -> None:
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


async def check_nodes(server: Server, session: aiohttp.ClientSession) -> None:
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


async def upload(session: aiohttp.ClientSession, name: str, picture: bytes) -> str:
    """Upload the picture into ComfyUI's input folder; return the name it has there."""
    import aiohttp

    form = aiohttp.FormData({"overwrite": "true"})
    form.add_field("image", picture, filename=name)
    async with session.post("/upload/image", data=form) as response:
        if not response.ok:
            raise UserError(f"ComfyUI did not take the picture {name}: {await response.text()}")
        return (await response.json())["name"]


async def execute(server: Server, session: aiohttp.ClientSession, graph: dict) -> str:
    """Queue the graph and print its progress until it has ended; return the prompt's id."""
    client = uuid.uuid4().hex
    async with session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket_:
        await socket_.send_json({"type": "feature_flags", "data": FEATURE_FLAGS})
        async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as response:
            answer = await response.json()
        if "prompt_id" not in answer:
            raise UserError(validation_message(graph, answer))
        await follow(server, socket_, graph, answer["prompt_id"])
    return answer["prompt_id"]


def validation_message(graph: dict, answer: dict) -> str:
    """Put ComfyUI's answer to a graph that it rejects into one sentence per fault."""
    lines = ["ComfyUI rejected the workflow."]
    for node_id, report in answer.get("node_errors", {}).items():
        for error in report["errors"]:
            lines.append(f"    Node {node_id} ({title(graph, node_id)}): {error['message']} ({error['details']}).")
    if len(lines) == 1:
        lines.append(f"    {answer['error']['message']} ({answer['error']['details']}).")
    return "\n".join(lines)


async def follow(server: Server, socket_: aiohttp.ClientWebSocketResponse, graph: dict, prompt_id: str) -> None:
    """Print a line per node and per second of its steps, and what nodes say, until the graph has ended."""
    import aiohttp

    begun = 0
    last_line = 0.0
    first_step = None
    said = set()
    async for message in socket_:
        if message.type == aiohttp.WSMsgType.BINARY:
            for line in progress_lines(message.data):
                if line not in said:
                    said.add(line)
                    say(f"      {line}")
            continue
        if message.type != aiohttp.WSMsgType.TEXT:
            continue
        event = json.loads(message.data)
        kind, data = event["type"], event["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "execution_cached":
            begun += len(data["nodes"])
        elif kind == "executing":
            if data["node"] is None:
                return
            begun += 1
            first_step = None
            say(f"  {begun}/{len(graph)} {title(graph, data['node'])}")
        elif kind == "progress":
            now, value, total = time.monotonic(), data["value"], data["max"]
            first_step = first_step or (now, value)
            if value == total or now - last_line >= 1:
                last_line = now
                say(f"      step {value} of {total}{time_left(first_step, now, value, total)}")
        elif kind == "execution_error":
            where = f"Node {data['node_id']} ({title(graph, data['node_id'])})"
            raise UserError(f"{where} failed: {data['exception_message'].strip()}\nThe traceback is in {server.log}.")
        elif kind == "execution_interrupted":
            raise UserError("The workflow was interrupted in ComfyUI.")
    raise aiohttp.ClientConnectionError("the websocket was closed")


def time_left(first_step: tuple[float, float], now: float, value: float, total: float) -> str:
    """Estimate the rest by the speed since the first step, which may have loaded the model and does not count."""
    start, first = first_step
    if value <= first or value >= total:
        return ""
    return f", {timedelta(seconds=round((now - start) / (value - first) * (total - value)))} left"


def progress_lines(message: bytes) -> list[str]:
    """List what a node shows on itself, without its steps: warnings, above all. Previews give no lines."""
    kind, id_length = (int.from_bytes(message[start : start + 4], "big") for start in (0, 4))
    if kind != PROGRESS_TEXT:
        return []
    text = html.unescape(message[8 + id_length :].decode())
    return [line for line in text.splitlines() if line.strip() and not STEPS_LINE.match(line)]


# The video


async def fetch_video(session: aiohttp.ClientSession, prompt_id: str) -> bytes:
    """Download the MP4 file that the prompt has saved."""
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


def save_without_overwriting(output: Path, video: bytes) -> Path:
    """Write the video into a folder, or as an .mp4 file, under a name that is still free."""
    first = output if output.suffix.lower() == ".mp4" else output / "consisid_demo.mp4"
    number = 1
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        while True:
            path = first.with_stem(f"{first.stem}_{number}") if number > 1 else first
            with contextlib.suppress(FileExistsError), path.open("xb") as file:
                file.write(video)
                return path.resolve()
            number += 1
    except OSError as error:
        raise UserError(
            f"The video could not be written to --output {output} ({error}). A copy is in {BASE / 'output'}."
        ) from error


def describe_video(path: Path) -> str:
    """Decode the video and put its measures into words."""
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
