"""Every notation of quantised weights becomes one. That such files load is tested in comfyui/."""

import json

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.quantization import json_tensor, plain_shapes, take_quantization
from consisid_pack.consisid_core.errors import WeightsError

FP8 = torch.zeros(4, 8, dtype=torch.float8_e4m3fn)


def test_settings_are_taken_out():
    state_dict = {"a.weight": FP8, "a.weight_scale": torch.ones(()), "a.comfy_quant": json_tensor({"format": "x"})}
    assert take_quantization(state_dict) == {"a": {"format": "x"}}
    assert state_dict.keys() == {"a.weight", "a.weight_scale"}


@pytest.mark.parametrize("elements", [0, 2])
def test_old_scales_get_their_new_names(elements):
    state_dict = {
        "scaled_fp8": torch.zeros(elements), "a.weight": FP8, "a.scale_weight": torch.ones(()),
        "a.scale_input": torch.ones(()), "b.weight": torch.zeros(2, 2), "b.scale_weight": torch.ones(()),
    }  # fmt: skip
    precise = {"full_precision_matrix_mult": True} if elements else {}
    assert take_quantization(state_dict) == {"a": {"format": "float8_e4m3fn", **precise}}
    assert state_dict.keys() == {"a.weight", "a.weight_scale", "a.input_scale", "b.weight"}


@pytest.mark.parametrize("settings", [b"{", b"[]", json.dumps({"form": "x"}).encode(), b'{"format": 3}'])
def test_settings_of_another_form(settings):
    with pytest.raises(WeightsError, match="quantisation settings for a that are not in ComfyUI's form"):
        take_quantization({"a.comfy_quant": torch.tensor(list(settings), dtype=torch.uint8)})


def test_packed_weights_count_as_long_as_they_are_unpacked():
    state_dict = {
        "a.weight": torch.zeros(32, 8, dtype=torch.uint8), "a.bias": torch.zeros(32), "a.weight_scale": torch.ones(4),
        "a.anything_else": torch.ones(1), "b.weight": FP8, "b.weight_scale": torch.ones(()), "c.weight": torch.ones(3),
    }  # fmt: skip
    quantization = {"a": {"format": "nvfp4"}, "b": {"format": "float8_e4m3fn"}}
    expected = {"a.weight": (32, 16), "a.bias": (32,), "b.weight": (4, 8), "c.weight": (3,)}
    assert plain_shapes(state_dict, quantization) == expected
