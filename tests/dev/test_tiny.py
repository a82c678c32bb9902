"""The command that writes the demo set. That every loader takes the set is what most other tests begin with."""

import sys

import torch
from consisid_pack.consisid_core.dev import tiny
from safetensors.torch import load_file


def test_wrong_arguments_and_missing_packages_are_named(tmp_path, monkeypatch, capsys):
    assert tiny.main([]) == 2
    assert "usage: python -m consisid_core.dev.tiny MODELS_DIR" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert tiny.main([str(tmp_path)]) == 1
    assert "pip install onnx" in capsys.readouterr().err


def test_the_weights_are_the_same_each_time(models_dir, tmp_path):
    for _ in range(2):  # The second time over an earlier file.
        tiny._write_vae(tmp_path / "vae.safetensors")
    again = load_file(tmp_path / "vae.safetensors")
    first = load_file(models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors")
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
