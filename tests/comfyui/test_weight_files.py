"""ComfyUI's reader, progress bar and cancel behind the one way to read a weight file."""

import logging

import comfy.model_management
import comfy.utils
import pytest
import torch
from consisid_pack.consisid_core.comfyui.weight_files import read_weights, refuse_broken_result
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.weight_forms import write_gguf
from safetensors.torch import save_file

TENSORS = {"a": torch.ones(2, 3), "b": torch.zeros(4)}


@pytest.fixture
def packed(tmp_path):
    write_gguf(tmp_path / "a.gguf", TENSORS)
    return tmp_path / "a.gguf"


def test_unpacking_moves_the_bar(packed, monkeypatch):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total)))
    assert read_weights(packed).tensors.keys() == TENSORS.keys()
    assert seen[-1] == (2, 2)


def test_unpacking_can_be_cancelled(packed):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        read_weights(packed)


def test_demo_weights_are_said_once(models_dir, caplog):
    folder = models_dir / "diffusion_models/consisid_demo/transformer"
    with caplog.at_level(logging.WARNING, "consisid"):
        read_weights(folder)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{folder} holds random demo weights: results are noise")


def test_a_broken_result_is_traced_to_the_weights_or_not(tmp_path):
    sound, broken = tmp_path / "sound.safetensors", tmp_path / "broken.safetensors"
    save_file(TENSORS, sound)
    save_file({**TENSORS, "c": torch.tensor([float("inf")])}, broken)
    with pytest.raises(ConsisIDError, match=r"broken\.safetensors holds values .* in 1 parameters \(c\)"):
        refuse_broken_result("The result", broken, "Try another.")
    with pytest.raises(ConsisIDError, match=r"^The result holds .* the weights in .*sound\.safetensors do not\. Try"):
        refuse_broken_result("The result", sound, "Try another.")
