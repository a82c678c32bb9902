"""The nets that prepare clips: what they answer, how they are told apart, and what is wrong with other files."""

import shutil

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.encoders import EncoderPaths, Encoders
from helpers.oracle import build_reference_vae
from helpers.training_nets import tiny_paths
from transformers import T5EncoderModel, T5TokenizerFast


@torch.inference_mode()
def test_text_equals_transformers(encoders, encoder_paths):
    """Official train.py:compute_prompt_embeddings: padded to 226 tokens, padding attended."""
    reference = T5EncoderModel.from_pretrained(encoder_paths.text_encoder, dtype=torch.float32).eval()
    tokenizer = T5TokenizerFast.from_pretrained(encoder_paths.tokenizer)
    for text in ("A woman smiles.", ""):
        encoded, cut = encoders.encode_text(text)
        tokens = tokenizer(text, padding="max_length", max_length=226, return_tensors="pt").input_ids
        torch.testing.assert_close(encoded, reference(tokens)[0][0].half(), rtol=2e-3, atol=2e-3)
        assert encoded.shape == (226, 64) and cut == 0
    encoded, cut = encoders.encode_text("word " * 300)
    assert encoded.shape == (226, 64) and cut == len(tokenizer("word " * 300).input_ids) - 226 > 0


@torch.inference_mode()
def test_posterior_equals_diffusers(encoders, models_dir):
    reference = build_reference_vae(models_dir)
    frames = torch.randint(0, 256, (9, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = reference.encode((frames.float() / 127.5 - 1).movedim(1, 0)[None]).latent_dist
    mean, std = encoders.encode_video(frames)
    torch.testing.assert_close(mean, expected.mean[0].half(), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(std, expected.std[0].half(), rtol=2e-3, atol=2e-3)
    pictures = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = reference.encode(pictures[:, :, None]).latent_dist
    mean, std = encoders.encode_pictures(pictures)
    torch.testing.assert_close(mean, expected.mean[:, :, 0].half(), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(std, expected.std[:, :, 0].half(), rtol=2e-3, atol=2e-3)


def test_a_stand_in_is_known(encoders):
    assert encoders.is_demo


def test_fingerprints_go_by_content(encoder_paths, models_dir, tmp_path):
    own = encoder_paths.fingerprints()
    assert set(own) == {"vae", "text_encoder", "eva", "parser", "face_pack"}
    moved, other = tmp_path / "another name.safetensors", tmp_path / "other.safetensors"
    shutil.copy(encoder_paths.vae, moved)
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)

    def fingerprints(**paths):
        return EncoderPaths.find(None, **{**tiny_paths(models_dir), **paths}).fingerprints()

    assert fingerprints(vae=moved) == own
    changed = fingerprints(vae=other)
    assert {net for net in own if own[net] != changed[net]} == {"vae"}


def test_released_places_are_the_default(tmp_path):
    places = {
        "vae": "models/vae/ConsisID-preview/vae/diffusion_pytorch_model.safetensors",
        "text_encoder": "models/text_encoders/ConsisID-preview/text_encoder/model.safetensors.index.json",
        "eva": "models/consisid/ConsisID-preview/face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt",
        "parser": "models/consisid/ConsisID-preview/face_encoder/parsing_bisenet.pth",
        "pack": "models/insightface/models/antelopev2/scrfd_10g_bnkps.onnx",
        "tokenizer": "comfy/text_encoders/t5_tokenizer/tokenizer.json",
    }
    for place in places.values():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "main.py").touch()
    found = EncoderPaths.find(tmp_path)
    folders = ("text_encoder", "pack", "tokenizer")
    for name, place in places.items():
        assert getattr(found, name) == (tmp_path / place).parent if name in folders else tmp_path / place


@pytest.mark.parametrize(
    ("name", "words"),
    [("vae", "There is no vae at .* with --vae"), ("text_encoder", "no text encoder at .* with --text-encoder")],
)
def test_a_missing_net_is_told(models_dir, tmp_path, name, words):
    with pytest.raises(ConsisIDError, match=words):
        EncoderPaths.find(None, **{**tiny_paths(models_dir), name: tmp_path / "absent"})


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("vae", "parser", "is not a CogVideoX VAE: it looks like a BiSeNet face parser"),
        ("vae", "tokenizer", "holds 0 index files"),
        ("eva", "vae", "looks like a CogVideoX VAE"),
        ("parser", "eva", "is not a BiSeNet face parser"),
        ("text_encoder", "vae", "is not a T5 v1.1 text encoder"),
        ("tokenizer", "pack", "holds no T5 tokenizer"),
        ("pack", "tokenizer", "holds no .onnx files"),
    ],
)
def test_a_wrong_net_is_told(models_dir, name, other, words):
    paths = tiny_paths(models_dir)
    paths = EncoderPaths.find(None, **{**paths, name: paths[other]})
    with pytest.raises(ConsisIDError, match=words):
        Encoders(paths, "cpu", "CPU", 226)
