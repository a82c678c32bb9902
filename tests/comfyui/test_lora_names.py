"""What trainers' names of LoRA tensors mean."""

import re

import pytest
from consisid_pack.consisid_core.comfyui.lora_names import (
    is_of_text_encoder,
    parameters_by_module,
    without_adapter_names,
)
from consisid_pack.consisid_core.errors import WeightsError

PARAMETERS = [
    "diffusion_model.proj_out.weight",
    "diffusion_model.proj_out.bias",
    "diffusion_model.transformer_blocks.0.attn1.to_out.0.weight",
    "diffusion_model.local_facial_extractor.latents",
]
TO_OUT = PARAMETERS[2]


@pytest.mark.parametrize(
    "name",
    [
        "transformer_blocks.0.attn1.to_out.0",
        "transformer_blocks_0_attn1_to_out_0",
        "transformer_blocks.0.attn1.to_out_0",
        "transformer.transformer_blocks.0.attn1.to_out.0",
        "transformer.base_model.model.transformer_blocks.0.attn1.to_out.0",
        "base_model.model.transformer.transformer_blocks.0.attn1.to_out.0",
        "diffusion_model.transformer_blocks.0.attn1.to_out.0",
        "model.diffusion_model.transformer_blocks.0.attn1.to_out.0",
        "lora_unet_transformer_blocks_0_attn1_to_out_0",
        "lora_unet__transformer_blocks_0_attn1_to_out_0",
        "lora_transformer_transformer_blocks_0_attn1_to_out_0",
        "lycoris_transformer_blocks_0_attn1_to_out_0",
        "_orig_mod.transformer_blocks.0.attn1.to_out.0",
        "module.transformer_blocks.0.attn1.to_out.0",
    ],
)
@pytest.mark.parametrize(
    "suffix",
    [".lora_A.weight", ".lora_up.weight", ".lora.down.weight", "_lora.up.weight", ".alpha", ".lokr_w1", ".diff"],
)
def test_a_module_is_found_behind_any_words(name, suffix):
    assert parameters_by_module([name + suffix], PARAMETERS) == {name: TO_OUT}


@pytest.mark.parametrize(
    "name",
    [
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "transformer.single_transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "lora_te__encoder_block_0_layer_0_SelfAttention_q.lora_down.weight",
        "text_encoder.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "transformer_blocks.0.attn1.to_out.lora_A.weight",
        "transformer.lora_A.weight",
        "lora_unet_",
        "",
    ],
)
def test_other_modules_are_not_taken(name):
    assert parameters_by_module([name], PARAMETERS) == {}


def test_parameters_that_are_no_weight_have_their_whole_name():
    names = ["proj_out.bias.diff", "proj_out.diff_b", "transformer.local_facial_extractor.latents.set_weight"]
    assert parameters_by_module(names, PARAMETERS) == {
        "proj_out.bias": PARAMETERS[1],
        "proj_out": PARAMETERS[0],
        "transformer.local_facial_extractor.latents": PARAMETERS[3],
    }


def test_one_module_in_two_ways_is_refused():
    names = ["lora_unet_proj_out.lora_up.weight", "proj_out.lora_A.weight", "proj_out.lora_B.weight"]
    with pytest.raises(WeightsError, match="names one module in two ways: lora_unet_proj_out and proj_out"):
        parameters_by_module(names, PARAMETERS)


def test_adapter_names_are_left_out():
    long = ["x.lora_A.default.weight", "x.lora_B.my style.weight", "x.lora_magnitude_vector.default.weight"]
    assert without_adapter_names(dict.fromkeys(long)) == dict.fromkeys(
        ["x.lora_A.weight", "x.lora_B.weight", "x.lora_magnitude_vector"]
    )
    for short in ("x.lora_A.weight", "x.lora_magnitude_vector", "x.lora_B.bias", "x.lora_up.weight", "x.lora_A"):
        assert list(without_adapter_names({short: 0})) == [short]
    two = {"x.lora_A.one.weight": 1, "x.lora_A.two.weight": 2}
    message = "holds several adapters, of which one can be loaded: x.lora_A.one.weight and x.lora_A.two.weight"
    with pytest.raises(WeightsError, match=re.escape(message)):
        without_adapter_names(two)


def test_text_encoders():
    for name in (
        "lora_te_x",
        "lora_te__encoder_x",
        "lora_te1_x",
        "text_encoder.x",
        "text_encoder_2.x",
        "text_encoders.t5",
    ):
        assert is_of_text_encoder(name)
    for name in ("lora_unet_x", "transformer.text_encoder", "lora_team"):
        assert not is_of_text_encoder(name)
