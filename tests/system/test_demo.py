"""`scripts/demo.py --weights released` from the command line, and the client of docs/api.md, on real servers.

The tiny set stands in for the released files, under their names and in their places.
"""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from consisid_pack.consisid_core.weights.parts import PARTS
from helpers import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

# The program with a base folder of the test's own, in the environment that the tests run in.
PROGRAM = (
    "import sys, pathlib; sys.path.insert(0, {scripts!r}); import demo; demo.BASE = pathlib.Path({base!r}); demo.main()"
)
SECONDS = 900  # Seconds that one run may take; other work on the machine slows it.


def demo_process(base, *arguments):
    code = PROGRAM.format(scripts=str(ROOT / "scripts"), base=str(base))
    environment = {**os.environ, "CONSISID_DEMO_COMFYUI": os.environ["COMFYUI_PATH"], "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run_demo(base, *arguments):
    """(exit code, what it printed)."""
    with demo_process(base, *arguments) as process:
        output = process.communicate(timeout=SECONDS)[0]
    return process.returncode, output


def released(models_dir, folder):
    """The tiny set in `folder`, under the names and in the places of the release."""
    name = "consisid_demo"
    pack = models_dir / "insightface" / "models" / name
    places = {
        "transformer": models_dir / "diffusion_models" / name / "transformer",
        "text_encoder": models_dir / "text_encoders" / name / "text_encoder",
        "face_parsing": models_dir / "consisid" / name / "parsing_bisenet.pth",
        "eva_clip": models_dir / "consisid" / name / "EVA02_CLIP_L_336_psz14_s6B.pt",
        "face_detector": next(pack.glob("det_*.onnx")),
        "face_recogniser": next(pack.glob("rec_*.onnx")),
    }
    for part in PARTS:
        target = folder / part.folder / part.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.name == "vae":
            target.mkdir()
            source = models_dir / "vae" / name / "diffusion_pytorch_model.safetensors"
            shutil.copy(source, target / source.name)
        elif places[part.name].is_dir():
            shutil.copytree(places[part.name], target)
        else:
            shutil.copy(places[part.name], target)
    return folder


@pytest.fixture(scope="module")
def weights(models_dir, tmp_path_factory):
    return released(models_dir, tmp_path_factory.mktemp("released") / "models")


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "me.jpg"
    Image.fromarray(data.astronaut()).save(file, quality=95)
    return file


def test_released_weights_make_a_video_without_overwriting_one(weights, photo, tmp_path):
    # Part of the weights lies where ComfyUI's extra_model_paths.yaml says.
    comfyui = tmp_path / "comfyui"
    shutil.copytree(weights, comfyui / "models")
    (comfyui / "main.py").touch()
    (comfyui / "models" / "text_encoders").rename(tmp_path / "elsewhere")
    (comfyui / "extra_model_paths.yaml").write_text(f"mine:\n  clip: {tmp_path / 'elsewhere'}\n")
    taken = tmp_path / "videos" / "me.mp4"
    taken.parent.mkdir()
    taken.write_bytes(b"mine")
    prompt = "A person walks through a garden and smiles at the camera. " * 30

    code, output = run_demo(
        tmp_path / "base", "--weights", "released", "--models", comfyui, "--image", photo, "--prompt", prompt,
        "--negative", "rain", "--seed", 7, "--steps", 2, "--cfg", 5, "--length", 1, "--low-memory", "--output", taken,
    )  # fmt: skip
    assert code == 0, output
    assert taken.read_bytes() == b"mine"
    video = taken.with_name("me_2.mp4")
    assert f"Video: {video}" in output
    with av.open(str(video)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        graph = json.loads(container.metadata["prompt"])
    assert frames.shape == (1, 480, 720, 3) and frames.std() > 5

    inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
    sampler = inputs["ConsisIDSampler"]
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (7, 2, 5)
    assert inputs["ConsisIDModelLoader"]["weight_dtype"] == "fp8_e4m3fn" and "VAEDecodeTiled" in inputs
    texts = [node["inputs"]["text"] for node in graph.values() if node["class_type"] == "CLIPTextEncode"]
    assert texts == [prompt, "rain"]

    assert "Prompt cut from" in output, "the terminal must show what the nodes warn of"
    assert "step 2 of 2" in output and "consent" in output
    assert ("finds no CUDA device" in output) == ("--cpu" in cpu_option())
    assert not server_processes(tmp_path / "base")


def cpu_option():
    import torch

    return [] if torch.cuda.is_available() else ["--cpu"]


def server_processes(base):
    """The ComfyUI servers that run on this base directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if "--base-directory" in (command := process.cmdline()) and str(base) in command:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_ctrl_c_stops_the_server(weights, photo, tmp_path):
    base = tmp_path / "base"
    with demo_process(
        base,
        "--weights",
        "released",
        "--models",
        weights,
        "--image",
        photo,
        "--length",
        1,
        "--steps",
        500,
        "--output",
        tmp_path,
    ) as process:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if re.search(r"step \d+ of 500", line):
                break
        assert process.poll() is None and server_processes(base), "".join(seen)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 130 and rest.endswith("Stopped.\n") and "Traceback" not in rest, rest
    assert "step 500 of 500" not in rest, "it waited for the video"
    assert not server_processes(base)
    assert not list(tmp_path.glob("*.mp4"))


def test_a_photo_without_a_face_is_told_before_the_large_weights_are_loaded(weights, tmp_path):
    file = tmp_path / "wall.png"
    Image.fromarray(data.brick()).convert("RGB").save(file)
    code, output = run_demo(
        tmp_path / "base", "--weights", "released", "--models", weights, "--image", file, "--output", tmp_path
    )
    assert code == 1 and re.search(r"\(ConsisIDFaceAnalyzer\) failed: .*No face found", output), output
    assert "ConsisIDModelLoader" not in output and "ConsisIDTextEncoderLoader" not in output
    assert not server_processes(tmp_path / "base")


def test_missing_weights_are_listed_with_the_command_that_fetches_them(weights, photo, tmp_path):
    models = tmp_path / "my models"
    shutil.copytree(weights, models)
    shutil.rmtree(models / "vae")
    shard = next((models / "diffusion_models").rglob("*-00002-of-00002.safetensors"))
    shard.unlink()
    code, output = run_demo(tmp_path / "base", "--weights", "released", "--models", models, "--image", photo)
    assert code == 1 and "2 of 7 parts are not there" in output, output
    assert f"vae, 431.0 MB, belongs at {models / 'vae' / 'ConsisID-preview' / 'vae'}" in output
    assert "transformer, 12.4 GB" in output and shard.name in output
    assert "Starting ComfyUI" not in output

    folder, command = (shlex.split(line) for line in re.findall(r"^    ((?:cd |\S+ -m ).*)$", output, flags=re.M))
    assert command[-2] == "download"
    listed = subprocess.run([*command[:-2], "list", command[-1]], cwd=folder[1], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    needed = re.findall(r"^(\w+) +(?:missing|incomplete)(?! \(optional\))", listed.stdout, flags=re.M)
    assert needed == ["transformer", "vae"]


@pytest.mark.parametrize(
    "place",
    ["vae/my_vae.safetensors", "consisid/ConsisID-preview/vae/diffusion_pytorch_model.safetensors"],
    ids=["another file", "copy of the repository"],
)
def test_files_that_serve_as_well_are_taken(place, weights, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import demo
    import released as released_script

    models = tmp_path / "models"
    shutil.copytree(weights, models)
    file = models / "vae" / "ConsisID-preview" / "vae" / "diffusion_pytorch_model.safetensors"
    # Without the marker that keeps demo weights from being taken for others.
    (models / place).parent.mkdir(exist_ok=True)
    save_file(load_file(file), models / place)
    shutil.rmtree(file.parent)
    graph = demo.read_graph("consisid_text_to_video")
    arguments = released_script.prepare(graph, models, False, tmp_path)
    assert demo.find_node(graph, "ConsisIDVAELoader")["inputs"]["vae_name"] == place.partition("/")[2]
    assert arguments[0] == "--extra-model-paths-config"
    folders = json.loads(Path(arguments[1]).read_text())["released_weights"]
    assert str(models / place.partition("/")[0]) in folders[place.partition("/")[0]].split("\n")


def test_a_16_bit_photo_goes_to_comfyui_with_8_bits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import demo

    grey, exif = data.astronaut()[:400, :, 0], Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey * np.uint16(257)).save(tmp_path / "a.tif", exif=exif)
    name, content = demo.read_picture(tmp_path / "a.tif")
    assert name.startswith("photo_") and name.endswith(".png")
    with Image.open(io.BytesIO(content)) as sent:
        assert sent.mode == "L" and np.array_equal(np.asarray(sent), np.rot90(grey, -1))
    Image.fromarray(grey).save(tmp_path / "a.tif")
    name, content = demo.read_picture(tmp_path / "a.tif")
    assert name.endswith(".tif") and content == (tmp_path / "a.tif").read_bytes()
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(
        demo.UserError, match=r"^--image .*a.tif: its pixels are .*Save it with 8 or 16 bits per channel"
    ):
        demo.read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--image", "nowhere.jpg"], 1, "--image nowhere.jpg is not a file."),
        (["--image", __file__], 1, "cannot be read as a picture"),
        (["--prompt", "  "], 2, "argument --prompt: it is empty"),
        (["--length", "0"], 2, "argument --length: '0' is not a whole number from 1 on"),
        (["--steps", "many"], 2, "argument --steps: 'many' is not a whole number from 1 on"),
        (["--output", __file__], 1, "cannot be used"),
        (["--weights", "released", "--models", "nowhere"], 1, "nowhere is not a folder"),
        (["--low-memory"], 2, "go with --weights released"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(arguments, code, message, tmp_path):
    result, output = run_demo(tmp_path / "base", *arguments)
    assert result == code and message in " ".join(output.split()), output
    assert "Traceback" not in output and "Starting ComfyUI" not in output


# The API


def test_the_api_graph_is_the_template():
    shipped = ROOT / "docs" / "api" / "consisid_text_to_video.json"
    tested = ROOT / "tests" / "workflows" / "consisid_text_to_video.json"
    assert json.loads(shipped.read_text()) == json.loads(tested.read_text())


def run_client(served, tmp_path, photo):
    """Runs the client as docs/api.md prints it, on the demo graph."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.S)
    assert code.count("http://127.0.0.1:8188") == 1
    client = tmp_path / "client.py"
    client.write_text(code.replace("http://127.0.0.1:8188", served.server.url), encoding="utf-8")
    graph = ROOT / "tests" / "workflows" / "consisid_demo.json"
    command = [sys.executable, "-I", client, graph, photo, "A person sings in the rain.", tmp_path / "video.mp4"]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def test_the_client_of_the_documents_fetches_a_video(served, photo, tmp_path):
    result = run_client(served, tmp_path, photo)
    assert result.returncode == 0, result.stderr
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 17
        assert "A person sings in the rain." in container.metadata["prompt"]

    first = (tmp_path / "video.mp4").read_bytes()
    (tmp_path / "video.mp4").unlink()
    again = run_client(served, tmp_path, photo)
    if again.returncode:  # ComfyUI 0.3.75 lists no outputs of a run that came from its cache.
        assert again.stderr == "ComfyUI has this graph in its cache and made nothing. Change the seed.\n"
        assert not (tmp_path / "video.mp4").exists()
    else:
        assert (tmp_path / "video.mp4").read_bytes() == first


def test_the_client_says_what_a_node_says(served, tmp_path):
    file = tmp_path / "wall.png"
    Image.fromarray(data.brick()).convert("RGB").save(file)
    result = run_client(served, tmp_path, file)
    assert result.returncode == 1 and "No face found" in result.stderr, result.stderr
    assert not (tmp_path / "video.mp4").exists()
