"""The dimensions of the released net."""

import dataclasses
import re

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.net_config import infer_transformer_config
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model import config as config_module
from consisid_pack.consisid_core.model.config import INJECTION_PLANS, INJECTIONS, TransformerConfig
from consisid_pack.consisid_core.model.transformer import ConsisIDTransformer
from diffusers import ConsisIDTransformer3DModel


def test_full_size_has_the_names_and_shapes_of_diffusers():
    with torch.device("meta"):
        reference = ConsisIDTransformer3DModel(
            num_attention_heads=48, in_channels=32, num_layers=42, use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True, is_train_face=True,
        )  # fmt: skip
        ours = ConsisIDTransformer(TransformerConfig())
    expected = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == expected
    assert infer_transformer_config(expected) == TransformerConfig()
    stale = {"LFE_heads": 12, "LFE_num_tokens": 32, "LFE_output_dim": 768, "is_kps": False}
    assert infer_transformer_config(expected, stale) == TransformerConfig()


def test_the_release_is_none_of_the_plans_and_the_plans_differ():
    configs = [TransformerConfig(), *(TransformerConfig(**plan) for plan in INJECTION_PLANS.values())]
    assert len(set(configs)) == 8
    assert {config.injection for config in configs} == set(INJECTIONS)


def test_the_table_of_plans_says_what_the_plans_are():
    places = {
        "between attention and feed-forward": "between", "output of the block": "block_output",
        "input of the block": "block_input", "before the attention, after its norm": "before_attention",
    }  # fmt: skip
    source = open(config_module.__file__, encoding="utf-8").read()
    rows = re.findall(r"^\| ([a-g]) \| (\S+) \| (\S+) \| (\S+) \| (.*?) \|", source, re.MULTILINE)
    assert [row[0] for row in rows] == list(INJECTION_PLANS)
    for name, low, keypoints, high, place in rows:
        config = TransformerConfig(**INJECTION_PLANS[name])
        assert [low == "yes", keypoints == "yes", high == "yes"] == [
            config.low_frequency, config.keypoints, config.high_frequency,
        ]  # fmt: skip
        assert not config.high_frequency or places[place] == config.injection


def test_a_place_that_is_none_is_refused():
    with pytest.raises(ConsisIDError, match="injection 'middle' is none of block_output, between"):
        dataclasses.replace(TransformerConfig(), injection="middle")


def test_an_interval_of_no_blocks_is_refused():
    with pytest.raises(ConsisIDError, match="cross_attn_interval 0 must be 1 or more"):
        TransformerConfig(cross_attn_interval=0)
