"""Dimensions from shapes. Those of the released size and what is no net are tested with the nets themselves."""

import dataclasses

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.fit import check_names
from consisid_pack.consisid_core.checkpoint.net_config import (
    diffusers_config,
    infer_t5_config,
    infer_transformer_config,
    t5_shapes,
)
from consisid_pack.consisid_core.dev.tiny import T5, TRANSFORMER
from consisid_pack.consisid_core.errors import ConsisIDError, WeightsError
from consisid_pack.consisid_core.model.config import INJECTION_PLANS, INJECTIONS
from consisid_pack.consisid_core.model.transformer import ConsisIDTransformer
from helpers.oracle import TRANSFORMERS, build_reference
from transformers import T5Config, T5EncoderModel


def shapes_of(config):
    with torch.device("meta"):
        return {name: tuple(x.shape) for name, x in ConsisIDTransformer(config).state_dict().items()}


@pytest.mark.parametrize(
    "change",
    [{}, {"cross_attn_interval": 4}, {"learned_positions": False}, {"sample_width": 24}, {"attention_bias": False}],
    ids=str,
)
def test_config_and_shapes_give_the_net_back(change):
    config = dataclasses.replace(TRANSFORMER, **change)
    assert infer_transformer_config(shapes_of(config), diffusers_config(config)) == config


@pytest.mark.parametrize("plan", [*INJECTION_PLANS.values(), *({"injection": place} for place in INJECTIONS)], ids=str)
def test_plans_of_injection_come_back(plan):
    config = dataclasses.replace(TRANSFORMER, **plan)
    assert infer_transformer_config(shapes_of(config), diffusers_config(config)) == config


def test_a_config_that_names_no_plan_means_the_release():
    config = diffusers_config(TRANSFORMER)
    assert not {"injection", "low_frequency", "high_frequency"} & config.keys() and config["is_kps"] is False
    assert infer_transformer_config(shapes_of(TRANSFORMER), config) == TRANSFORMER


@pytest.mark.parametrize("stated", [{"injection": "sideways"}, {"injection": None}, {"low_frequency": "no"}], ids=str)
def test_a_plan_of_no_known_kind_is_refused(stated):
    with pytest.raises(WeightsError, match="has a config with injection .* knows block_output, between, .* update"):
        infer_transformer_config(shapes_of(TRANSFORMER), {**diffusers_config(TRANSFORMER), **stated})


def test_a_position_table_of_no_known_size():
    shapes = shapes_of(dataclasses.replace(TRANSFORMER, sample_width=24))
    with pytest.raises(WeightsError, match="has a position table of .* tokens, which fits neither"):
        infer_transformer_config(shapes, diffusers_config(TRANSFORMER))


def test_t5_shapes_are_those_of_transformers():
    with torch.device("meta"):
        reference = T5EncoderModel(T5Config(**{key: value for key, value in T5.items() if key != "architectures"}))
    expected = {name: tuple(x.shape) for name, x in reference.state_dict().items()}
    expected.pop("encoder.embed_tokens.weight", None)  # Another name of shared.weight.
    assert t5_shapes(T5) == expected
    config = infer_t5_config(expected)
    assert all(config[key] == T5[key] for key in ("d_model", "d_ff", "d_kv", "num_heads", "num_layers"))


def test_t5_says_its_own_length():
    shapes = t5_shapes(T5)
    assert infer_t5_config(shapes)["max_text_seq_length"] == 226
    # What transformers has in its configs for other ends is no length of prompts.
    assert infer_t5_config(shapes, {**T5, "max_length": 20, "n_positions": 512})["max_text_seq_length"] == 226
    assert infer_t5_config(shapes, {"max_text_seq_length": 32})["max_text_seq_length"] == 32
    for length in (0, -1, "32", True, None):
        with pytest.raises(WeightsError, match="which is no number of tokens"):
            infer_t5_config(shapes, {"max_text_seq_length": length})


def test_wrong_weights_are_named():
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    shapes = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    plain = {name: shape for name, shape in shapes.items() if not name.startswith(("local", "perceiver"))}
    with pytest.raises(ConsisIDError, match="plain CogVideoX transformer"):
        infer_transformer_config(plain)
    with pytest.raises(ConsisIDError, match="Stable Diffusion"):
        infer_transformer_config({"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)})
    with pytest.raises(ConsisIDError, match="position table of"):
        infer_transformer_config(shapes)
    wrong = dict(shapes, extra=(1,))
    wrong["proj_out.bias"] = (3,)
    del wrong["norm_final.bias"]
    with pytest.raises(ConsisIDError, match="1 missing: norm_final.bias; 1 unknown: extra; 1 of the wrong shape"):
        check_names(wrong, shapes)
