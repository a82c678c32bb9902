"""The nets out of checkpoints. That they equal their references, and what errors say, is tested through the loaders."""

import dataclasses
import json

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.net_config import diffusers_config, t5_shapes
from consisid_pack.consisid_core.checkpoint.nets import (
    config_tensors,
    identify,
    text_encoder_weights,
    transformer_prefix,
    transformer_weights,
    vae_weights,
)
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.dev.tiny import T5, TRANSFORMER, VAE
from consisid_pack.consisid_core.errors import WeightsError
from consisid_pack.consisid_core.model.config import INJECTION_PLANS
from safetensors.torch import save_file

CALLED = {"transformer": "a ConsisID transformer", "vae": "a CogVideoX VAE", "text_encoder": "a T5 text encoder"}
DEMO = {
    "transformer": "diffusion_models/consisid_demo/transformer",
    "vae": "vae/consisid_demo/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoders/consisid_demo/text_encoder",
}


@pytest.fixture(scope="module")
def checkpoints(models_dir):
    return {net: read_checkpoint(models_dir / path) for net, path in DEMO.items()}


def test_each_net_is_known_by_its_names(checkpoints):
    assert {net: identify(checkpoint.tensors) for net, checkpoint in checkpoints.items()} == {n: n for n in DEMO}
    assert identify(["x.weight"]) is None


def test_sizes_come_from_the_shapes(checkpoints):
    assert transformer_weights(checkpoints["transformer"]).config == TRANSFORMER
    assert vae_weights(checkpoints["vae"]).config["block_out_channels"] == tuple(VAE["block_out_channels"])
    assert text_encoder_weights(checkpoints["text_encoder"]).config["d_model"] == T5["d_model"]


def test_no_net_passes_for_another(checkpoints):
    takes = {"transformer": transformer_weights, "vae": vae_weights, "text_encoder": text_encoder_weights}
    for net, take in takes.items():
        for other, checkpoint in checkpoints.items():
            if net != other:
                with pytest.raises(WeightsError, match=f"it looks like {CALLED[other]}"):
                    take(checkpoint)


def test_a_saved_transformer_carries_its_config(checkpoints, tmp_path):
    saved = {**checkpoints["transformer"].tensors, **config_tensors(TRANSFORMER)}
    save_file(saved, tmp_path / "saved.safetensors")
    weights = transformer_weights(read_checkpoint(tmp_path / "saved.safetensors"))
    assert weights.config == TRANSFORMER and weights.state_dict.keys() == checkpoints["transformer"].tensors.keys()


@pytest.mark.parametrize("plan", INJECTION_PLANS)
def test_a_plan_of_injection_travels_with_its_weights(checkpoints, tmp_path, plan):
    """In config.json beside the weights, in the metadata of one file, and among the tensors that ComfyUI saves."""
    config = dataclasses.replace(TRANSFORMER, **INJECTION_PLANS[plan])
    tensors, stated = checkpoints["transformer"].tensors, json.dumps(diffusers_config(config))
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(stated)
    save_file(tensors, tmp_path / "one.safetensors", {"config": stated})
    save_file({**tensors, **config_tensors(config)}, tmp_path / "saved.safetensors")
    for name in ("diffusion_pytorch_model", "one", "saved"):
        assert transformer_weights(read_checkpoint(tmp_path / f"{name}.safetensors")).config == config


def test_the_prefix_of_averaged_weights_comes_first():
    anchor = "patch_embed.text_proj.weight"
    assert transformer_prefix([f"model.{anchor}", f"model_ema.{anchor}", "x"]) == "model_ema."
    assert transformer_prefix([f"a.b.{anchor}", f"a.{anchor}"]) == "a."
    assert transformer_prefix(["x"]) == ""


def test_text_encoders_with_a_decoder_and_with_their_other_name(tmp_path):
    state_dict = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in t5_shapes(T5).items()}
    state_dict["encoder.embed_tokens.weight"] = state_dict.pop("shared.weight")
    save_file({**state_dict, "decoder.final_layer_norm.weight": torch.zeros(64)}, tmp_path / "t5.safetensors")
    weights = text_encoder_weights(read_checkpoint(tmp_path / "t5.safetensors"))
    assert t5_shapes(T5).keys() <= weights.state_dict.keys()


def test_a_text_encoder_carries_its_length(tmp_path):
    state_dict = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in t5_shapes(T5).items()}
    save_file(state_dict, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**T5, "max_text_seq_length": 24}))
    save_file(state_dict, tmp_path / "t5.safetensors", {"config": json.dumps({"max_text_seq_length": 24})})
    for name in ("model", "t5"):
        weights = text_encoder_weights(read_checkpoint(tmp_path / f"{name}.safetensors"))
        assert weights.config["max_text_seq_length"] == 24
