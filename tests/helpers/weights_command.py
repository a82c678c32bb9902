"""Runs `python -m consisid_core.weights`: in the pack's folder and in a process of its own, as a user does, or in the
process of the tests, which has imported PyTorch already."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest
from consisid_pack.consisid_core.weights.__main__ import main

from helpers import ROOT
from helpers.processes import SECONDS

_AS_A_USER = ["-m", "consisid_core.weights"]
# The same with every sleep a hundredth as long: huggingface_hub waits 23 seconds in all before it gives up.
_HURRIED = [
    "-c",
    "import runpy, time; sleep = time.sleep; time.sleep = lambda seconds: sleep(seconds / 100);"
    "runpy.run_module('consisid_core.weights', run_name='__main__', alter_sys=True)",
]


def environment(endpoint="http://127.0.0.1:9", **variables):
    """Environment of the command: this hub and no other, nobody's token, no ComfyUI to be found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "COMFYUI_PATH"))}
    # A home of huggingface_hub that does not exist, so that no login of whoever runs the tests is used.
    home = os.path.join(tempfile.gettempdir(), "consisid-tests-no-login")
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": home, "PYTHONUNBUFFERED": "1", **variables}


def start(*arguments, hurried=False, **options):
    """The running command, as a Popen with text streams. hurried: its waits between attempts are shorter."""
    options = {"env": environment(), "stdin": subprocess.DEVNULL, **options}
    return subprocess.Popen(
        [sys.executable, *(_HURRIED if hurried else _AS_A_USER), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*arguments, answer=None, **options):
    """(exit code, standard output, standard error). A stack trace is a failure whatever the code."""
    if answer is not None:
        options["stdin"] = subprocess.PIPE
    process = start(*arguments, **options)
    out, err = process.communicate(answer, timeout=SECONDS)
    assert "Traceback" not in out + err, err
    return process.returncode, out, err


def call(*arguments):
    """`run` in this process, for what needs no environment, limits or signals: imports take longest otherwise."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(list(map(str, arguments)))
    return code, out.getvalue(), err.getvalue()


def tiny_release(models_dir, folder):
    """The tiny weight set as the release lays it out in its repository."""
    demo = "consisid_demo"
    places = {
        f"diffusion_models/{demo}/transformer": "transformer",
        f"text_encoders/{demo}/text_encoder": "text_encoder",
        f"vae/{demo}/diffusion_pytorch_model.safetensors": "vae/diffusion_pytorch_model.safetensors",
        f"consisid/{demo}/parsing_bisenet.pth": "face_encoder/parsing_bisenet.pth",
        f"consisid/{demo}/EVA02_CLIP_L_336_psz14_s6B.pt": "face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt",
        f"insightface/models/{demo}/det_yunet_scrfd.onnx": "face_encoder/models/antelopev2/scrfd_10g_bnkps.onnx",
        f"insightface/models/{demo}/rec_sface512.onnx": "face_encoder/models/antelopev2/glintr100.onnx",
    }
    curricular_face = "glint360k_curricular_face_r101_backbone.bin"
    measuring = {
        f"consisid/{demo}/{curricular_face}": f"face_encoder/{curricular_face}",
        f"insightface/models/{demo}/det_yunet_scrfd.onnx": "face_encoder/models/buffalo_l/det_10g.onnx",
        f"insightface/models/{demo}/rec_sface512.onnx": "face_encoder/models/buffalo_l/w600k_r50.onnx",
    }
    for source, target in [*places.items(), *measuring.items()]:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (models_dir / source).is_dir() else shutil.copy
        copy(models_dir / source, folder / target)
    (folder / "vae/config.json").write_text('{"_class_name": "AutoencoderKLCogVideoX"}')
    (folder / "face_encoder/models/antelopev2/genderage.onnx").write_bytes(b"not needed")
    (folder / "README.md").write_text("# ConsisID-preview")
    return folder


def installed(release, comfyui):
    """The tiny release in the places of a ComfyUI, as the README's table says."""
    models = comfyui / "models"
    places = {
        "transformer": "diffusion_models/ConsisID-preview/transformer",
        "vae": "vae/ConsisID-preview/vae",
        "text_encoder": "text_encoders/ConsisID-preview/text_encoder",
        "face_encoder/parsing_bisenet.pth": "consisid/ConsisID-preview/face_encoder/parsing_bisenet.pth",
        "face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt": (
            "consisid/ConsisID-preview/face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt"
        ),
        "face_encoder/models/antelopev2/scrfd_10g_bnkps.onnx": "insightface/models/antelopev2/scrfd_10g_bnkps.onnx",
        "face_encoder/models/antelopev2/glintr100.onnx": "insightface/models/antelopev2/glintr100.onnx",
    }
    for source, target in places.items():
        (models / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (release / source).is_dir() else shutil.copy
        copy(release / source, models / target)
    return models


def contents(folder):
    """Relative path -> bytes of all files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def small_disk(folder, size="16m"):
    """A file system of this size at a folder, or a skipped test where mounting is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
