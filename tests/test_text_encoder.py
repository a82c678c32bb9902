"""T5 inside ComfyUI against transformers, at exactly 226 tokens."""

import logging

import comfy.sd
import comfy.text_encoders.sd3_clip
import pytest
import torch
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
    def encode(prompt):
        tokens = tokenizer(
            prompt, padding="max_length", max_length=226, truncation=True, add_special_tokens=True, return_tensors="pt"
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
