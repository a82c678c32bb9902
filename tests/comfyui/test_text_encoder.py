"""T5 inside ComfyUI against transformers, at exactly 226 tokens."""

import json
import logging
import re
from functools import partial

import comfy.quant_ops
import comfy.sd
import comfy.text_encoders.sd3_clip
import pytest
import torch
from consisid_pack.consisid_core.checkpoint.quantization import json_tensor
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.weight_forms import quantised
from safetensors.torch import save_file
from transformers import T5EncoderModel, T5TokenizerFast

PROMPT = "A person talks to the camera, smiling; behind them the sea."


@pytest.fixture(scope="module")
def clip(run_node):
    (clip,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="consisid_demo/text_encoder")
    assert isinstance(clip, comfy.sd.CLIP)
    return clip


@pytest.fixture(scope="module")
def reference(models_dir):
    folder = models_dir / "text_encoders/consisid_demo/text_encoder"
    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    folder = comfy.text_encoders.sd3_clip.__file__.replace("sd3_clip.py", "t5_tokenizer")
    tokenizer = T5TokenizerFast.from_pretrained(folder)

    @torch.inference_mode()
    def encode(prompt, length=226):
        tokens = tokenizer(
            prompt,
            padding="max_length",
            max_length=length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        return model(tokens.input_ids)[0]

    return encode


def encode(clip, prompt):
    import nodes as comfyui_nodes

    with torch.inference_mode():
        (conditioning,) = comfyui_nodes.CLIPTextEncode().encode(clip, prompt)
    return conditioning[0][0]


@pytest.mark.parametrize("prompt", [PROMPT, "", "word " * 2000], ids=["short", "empty", "2000 words"])
def test_encoding_equals_transformers(clip, reference, prompt):
    actual, expected = encode(clip, prompt), reference(prompt)
    assert actual.shape == expected.shape == (1, 226, 64)
    assert ((actual - expected).norm() / expected.norm()).item() <= 1e-4


def test_an_encoder_with_its_own_length(models_dir, run_node, reference, caplog):
    folder = models_dir / "text_encoders"
    tensors = dict(read_checkpoint(folder / "consisid_demo/text_encoder").tensors)
    save_file(tensors, folder / "short.safetensors", {"config": json.dumps({"max_text_seq_length": 24})})
    (short,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="short.safetensors")
    for prompt in (PROMPT, "", "sea " * 100):
        actual, expected = encode(short, prompt), reference(prompt, 24)
        assert actual.shape == expected.shape == (1, 24, 64)
        assert ((actual - expected).norm() / expected.norm()).item() <= 1e-4
    assert "to 24 tokens" in caplog.text


@pytest.mark.parametrize("naming", ["scale_weight", "comfy_quant", "metadata"])
def test_scaled_fp8(naming, models_dir, run_node):
    """The fp8 files that ComfyUI's own examples use, one scale for a layer."""
    folder = models_dir / "text_encoders"
    state_dict = read_checkpoint(folder / "consisid_demo/text_encoder").tensors
    stored, meant, layers = dict(state_dict), dict(state_dict), {}
    for name, tensor in state_dict.items():
        if name.endswith(
            (".q.weight", ".k.weight", ".v.weight", ".o.weight", "wi_0.weight", "wi_1.weight", "wo.weight")
        ):
            layer = name.removesuffix(".weight")
            scale = tensor.float().abs().amax() / torch.finfo(torch.float8_e4m3fn).max
            stored[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            meant[name] = (stored[name].float() * scale).half()
            stored[f"{layer}.{'scale_weight' if naming == 'scale_weight' else 'weight_scale'}"] = scale
            layers[layer] = {"format": "float8_e4m3fn"}
    if naming == "scale_weight":
        stored["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    elif naming == "comfy_quant":
        stored |= {f"{layer}.comfy_quant": json_tensor(settings) for layer, settings in layers.items()}
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})} if naming == "metadata" else None
    save_file(stored, folder / "scaled.safetensors", metadata)
    save_file(meant, folder / "meant.safetensors")
    (scaled,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="scaled.safetensors")
    (plain,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="meant.safetensors")
    weight = scaled.cond_stage_model.state_dict()["t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.q.weight"]
    assert weight.dtype == torch.float8_e4m3fn
    actual, expected = encode(scaled, PROMPT), encode(plain, PROMPT)
    assert ((actual - expected).norm() / expected.norm()).item() <= 5e-3


def test_nvfp4(models_dir, run_node):
    folder = models_dir / "text_encoders"
    release = read_checkpoint(folder / "consisid_demo/text_encoder").tensors
    stored, meant = quantised(release, "nvfp4", {}, "DenseReluDense.wo.weight")
    save_file(stored, folder / "nvfp4.safetensors")
    load = partial(run_node, "ConsisIDTextEncoderLoader")
    if "nvfp4" not in comfy.quant_ops.QUANT_ALGOS:
        with pytest.raises(
            ConsisIDError, match=r"nvfp4\.safetensors is quantised as nvfp4, which this ComfyUI does not"
        ):
            load(text_encoder_name="nvfp4.safetensors")
        return
    save_file(meant, folder / "meant_nvfp4.safetensors")
    (packed,), (plain,) = (load(text_encoder_name=f"{name}.safetensors") for name in ("nvfp4", "meant_nvfp4"))
    actual, expected = encode(packed, PROMPT), encode(plain, PROMPT)
    assert ((actual - expected).norm() / expected.norm()).item() <= 1e-2


def test_values_that_are_not_finite_are_named_when_a_prompt_is_encoded(models_dir, run_node):
    folder = models_dir / "text_encoders"
    tensors = dict(read_checkpoint(folder / "consisid_demo/text_encoder").tensors)
    key = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    tensors[key] = tensors[key].clone()
    tensors[key][3, 5] = float("nan")
    save_file(tensors, folder / "nan.safetensors")
    (broken,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="nan.safetensors")
    named = rf"nan\.safetensors holds values that are not finite .* in 1 parameters \({re.escape(key)}\)"
    with pytest.raises(ConsisIDError, match=named):
        encode(broken, PROMPT)


def test_what_is_cut_is_quoted(clip, caplog):
    with caplog.at_level(logging.WARNING, logger="consisid"):
        encode(clip, "sea " * 224)
        assert not caplog.records
        encode(clip, "sea " * 224 + "then a lighthouse appears in the fog")
    (record,) = caplog.records
    assert "cut from" in record.message and "to 226 tokens" in record.message
    assert record.message.endswith("'a lighthouse appears in the fog'")


def test_prompt_weights_of_comfyui_still_work(clip):
    plain, weighted = encode(clip, "a red hat"), encode(clip, "a (red:1.4) hat")
    assert plain.shape == weighted.shape
    assert (plain - weighted).abs().max() > 1e-3
