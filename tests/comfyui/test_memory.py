"""ComfyUI's memory management over our nets: weight types, partial loading, unloading."""

import gc
import os
import weakref
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from consisid_pack.consisid_core.comfyui.transformer import ConsisID, ConsisIDModelConfig
from consisid_pack.consisid_core.dev.memory_count import forward_peak
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.config import TransformerConfig
from helpers.oracle import relative_error
from helpers.prediction import predict
from skimage import data

MODEL = "consisid_demo/transformer"


@pytest.fixture(scope="module")
def photo():
    return torch.from_numpy(data.astronaut()).float().div(255)[None]


def load_face_models(run_node, provider="CPU"):
    (models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack="consisid_demo", provider=provider,
        face_parsing="consisid_demo/parsing_bisenet.pth", eva_clip="consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
    )  # fmt: skip
    return models


# Half a unit in the last place of a weight is 2^-9, 2^-12, 2^-5 and 2^-4 of it; bounds leave some four layers' growth.
@pytest.mark.parametrize(
    ("weight_dtype", "stored", "bound"),
    [
        ("bf16", torch.bfloat16, 1e-2),
        ("fp16", torch.float16, 1e-3),
        ("fp8_e4m3fn", torch.float8_e4m3fn, 0.1),
        ("fp8_e4m3fn_fast", torch.float8_e4m3fn, 0.1),
        ("fp8_e5m2", torch.float8_e5m2, 0.2),
    ],
)
def test_weight_dtypes(run_node, inputs, weight_dtype, stored, bound):
    (plain,) = run_node("ConsisIDModelLoader", model_name=MODEL)
    (cast,) = run_node("ConsisIDModelLoader", model_name=MODEL, weight_dtype=weight_dtype)
    assert cast.model.diffusion_model.transformer_blocks[0].attn1.to_q.weight.dtype == stored
    embed = cast.model.diffusion_model.patch_embed
    assert embed.pos_embedding.dtype in (stored, torch.bfloat16)
    # What a streaming patcher would cast it to.
    assert getattr(embed, "pos_embedding_comfy_model_dtype", embed.pos_embedding.dtype) == embed.pos_embedding.dtype
    error = relative_error(predict(cast, inputs), predict(plain, inputs))
    assert 0 < error <= bound, error


def test_partially_loaded_weights_give_the_same_result(run_node, inputs):
    (model,) = run_node("ConsisIDModelLoader", model_name=MODEL)
    expected = predict(model, inputs)
    comfy.model_management.unload_all_models()
    model.load(model.load_device, lowvram_model_memory=model.model_size() // 3)
    streamed = [m for m in model.model.modules() if getattr(m, "comfy_cast_weights", False)]
    assert streamed, "some layers must cast their weights at use, as under --lowvram"
    torch.testing.assert_close(predict(model, inputs, load=False), expected, rtol=0, atol=1e-5)
    model.detach()


def test_freeing_memory_unloads_everything(run_node, inputs, models_dir):
    (model,) = run_node("ConsisIDModelLoader", model_name=MODEL)
    (vae,) = run_node("ConsisIDVAELoader", vae_name="consisid_demo/diffusion_pytorch_model.safetensors")
    (clip,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="consisid_demo/text_encoder")
    face_models = load_face_models(run_node)
    patchers = [model, vae.patcher, clip.patcher, face_models.parser, face_models.eva, face_models.detector]
    comfy.model_management.load_models_gpu(patchers)
    assert {id(entry.model) for entry in comfy.model_management.current_loaded_models} >= {id(p) for p in patchers}
    comfy.model_management.unload_all_models()
    assert not comfy.model_management.current_loaded_models
    for patcher in patchers:
        assert {p.device for p in patcher.model.parameters()} <= {patcher.offload_device}


def test_the_face_pack_is_loaded_once(run_node):
    first, second = load_face_models(run_node), load_face_models(run_node, provider="auto")
    detector = first.detector.model.detector
    if second.detector.model.providers == first.detector.model.providers:
        assert second.detector is first.detector
    assert load_face_models(run_node).detector.model.detector is detector


def test_a_changed_face_pack_is_loaded_anew(run_node, models_dir):
    first = load_face_models(run_node)
    file = next((models_dir / "insightface/models/consisid_demo").glob("*.onnx"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    assert load_face_models(run_node).detector is not first.detector


def test_detection_sessions_go_with_the_last_face_models(run_node):
    models = load_face_models(run_node)
    detector = weakref.ref(models.detector.model.detector)
    del models
    gc.collect()
    assert detector() is None


def test_freeing_memory_ends_the_detection_sessions_until_the_next_photo(run_node, photo):
    models = load_face_models(run_node)
    detector = weakref.ref(models.detector.model.detector)
    before = run_node("ConsisIDFaceAnalyzer", face_models=models, image=photo, background="keep")[0]
    assert models.detector.model.detector is detector(), "in use, the sessions stay"
    comfy.model_management.unload_all_models()
    gc.collect()
    assert models.detector.model.detector is None and detector() is None
    after = run_node("ConsisIDFaceAnalyzer", face_models=models, image=photo, background="keep")[0]
    assert torch.equal(after.embedding, before.embedding)


def test_a_face_pack_that_went_away_meanwhile_is_an_error_in_words(run_node, photo, models_dir, tmp_path):
    models = load_face_models(run_node)
    comfy.model_management.unload_all_models()
    folder = models_dir / "insightface/models/consisid_demo"
    folder.rename(tmp_path / "away")
    try:
        with pytest.raises(ConsisIDError, match="face model folder .* does not exist"):
            run_node("ConsisIDFaceAnalyzer", face_models=models, image=photo)
    finally:
        (tmp_path / "away").rename(folder)
    assert len(run_node("ConsisIDFaceAnalyzer", face_models=models, image=photo, background="keep")[0].embedding) == 1


def test_memory_estimate_grows_with_the_video(run_node):
    (model,) = run_node("ConsisIDModelLoader", model_name=MODEL)
    one, full = (model.model.memory_required((1, 16, frames, 60, 90)) for frames in (1, 13))
    assert full == pytest.approx(13 * one)


@pytest.mark.parametrize(("batch", "latent_size"), [(1, (13, 60, 90)), (2, (13, 60, 90)), (1, (7, 60, 90))])
def test_transformer_estimate_covers_the_counted_peak(monkeypatch, batch, latent_size):
    # As on a card: without fused attention ComfyUI reserves more.
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    model_config = ConsisIDModelConfig(TransformerConfig(num_layers=2))
    model_config.set_inference_dtype(torch.bfloat16, None)
    estimate = ConsisID(model_config, Path(), device="meta").memory_required((batch, 16, *latent_size))
    counted = forward_peak(TransformerConfig(), batch, latent_size)
    print(f"{batch} x {latent_size}: counted {counted / 2**30:.2f} GiB, estimated {estimate / 2**30:.2f} GiB")
    assert counted <= estimate <= 1.3 * counted
