"""The developer commands where diffusers or a device is missing."""

import subprocess
import sys

import pytest
from consisid_pack.consisid_core.dev import benchmark
from helpers import ROOT

MODULES = sorted(path.stem for path in (ROOT / "consisid_core" / "dev").glob("[!_]*.py"))
WITHOUT_DIFFUSERS = "import sys; sys.modules['diffusers'] = None; "


def test_importing_the_commands_needs_no_diffusers_and_says_nothing():
    imports = f"from consisid_core.dev import {', '.join(MODULES)}; assert 'onnx' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", WITHOUT_DIFFUSERS + imports], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_command_without_diffusers_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit, match="compares with diffusers, which does not import here .*pip install"):
        benchmark.main(["--size", "small", "--device", "cpu"])
    assert capsys.readouterr().out == ""


def test_a_command_without_what_the_face_path_needs_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(SystemExit, match="face path, which does not import here .*skimage.data.* --no-deps facexlib"):
        benchmark.main(["--what", "face", "--size", "small", "--device", "cpu"])


def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no CUDA device.*Leave out --device"):
        benchmark.main(["--size", "small", "--device", "cuda"])
