"""FACE, GLOBAL_ID and LOCAL_ID as the nodes make them, against diffusers' parts."""

import comfy.model_management
import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.comfyui.extractors import fit_picture
from consisid_pack.consisid_core.face.eva_clip import preprocess
from consisid_pack.consisid_core.face.keypoints import draw_keypoints, map_points
from consisid_pack.consisid_core.types import Face
from diffusers import ConsisIDTransformer3DModel
from helpers.oracle import relative_error
from skimage import data

SIZE = {"width": 96, "height": 64, "length": 9}


@pytest.fixture(scope="module")
def face_models(run_node):
    (models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack="consisid_demo",
        face_parsing="consisid_demo/parsing_bisenet.pth", eva_clip="consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
    )  # fmt: skip
    return models


@pytest.fixture(scope="module")
def vae(run_node):
    return run_node("ConsisIDVAELoader", vae_name="consisid_demo/diffusion_pytorch_model.safetensors")[0]


@pytest.fixture(scope="module")
def model(run_node):
    return run_node("ConsisIDModelLoader", model_name="consisid_demo/transformer")[0]


@pytest.fixture(scope="module")
def photo():
    return torch.from_numpy(data.astronaut()).float().div(255)[None]


@pytest.fixture(scope="module")
def analysis(run_node, face_models, photo):
    return run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=photo)


@pytest.fixture(scope="module")
def two_photos(run_node, face_models, photo):
    """The same person twice: as she is and mirrored."""
    both = torch.cat((photo, photo.flip(2)))
    return run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=both)[0]


@pytest.fixture(scope="module")
def reference(models_dir):
    folder = models_dir / "diffusion_models/consisid_demo/transformer"
    return ConsisIDTransformer3DModel.from_pretrained(folder).eval()


def test_face_has_the_documented_shapes(analysis, two_photos):
    for face, count in ((analysis[0], 1), (two_photos, 2)):
        assert isinstance(face, Face)
        shapes = {name: tuple(getattr(face, name).shape) for name in Face.__dataclass_fields__}
        assert shapes == {
            "embedding": (count, 512), "landmarks": (count, 5, 2), "bbox": (count, 4), "score": (count,),
            "image": (count, 512, 512, 3), "gray_image": (count, 512, 512, 3), "alignment": (count, 2, 3),
        }  # fmt: skip
        for name in shapes:
            tensor = getattr(face, name)
            assert tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.isfinite().all()
    cosine = torch.nn.functional.cosine_similarity(*two_photos.embedding, dim=0)
    assert cosine > 0.6
    mirrored = two_photos.landmarks[1, :, 0].sort().values
    torch.testing.assert_close(511 - mirrored.flip(0), two_photos.landmarks[0, :, 0].sort().values, rtol=0, atol=6)


def test_analyzer_pictures(analysis, photo):
    face, face_image, detections = analysis
    assert torch.equal(face_image, face.image)
    assert detections.shape == photo.shape
    x1, y1, x2, y2 = face.bbox[0].round().int().tolist()
    changed = (detections - photo).abs().amax(-1)[0] > 0.1
    assert changed[y1 : y2 + 1, x1 : x2 + 1].any() and not changed[y2 + 20 :].any()


def test_keep_and_remove_background(run_node, face_models, photo, analysis):
    kept = run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=photo, background="keep")[0]
    gray = kept.image @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(kept.gray_image[..., 0], gray, rtol=0, atol=1e-6)
    differs = (analysis[0].image != kept.image).any(-1)
    assert (analysis[0].image[differs] == 1).all() and (analysis[0].gray_image[differs] == 1).all()


def test_global_id_is_the_face_in_frame_zero(run_node, analysis, vae):
    (global_id,) = run_node("ConsisIDGlobalIDExtractor", face=analysis[0], vae=vae, **SIZE)
    picture = fit_picture((analysis[0].image[0].numpy() * 255).astype(np.uint8), 96, 64, "stretch")
    with torch.inference_mode():
        expected = vae.encode(torch.from_numpy(picture).float().div(255)[None])
    assert global_id.latents.shape == (1, 16, 3, 8, 12)
    assert torch.equal(global_id.latents[:, :, :1], expected)
    assert not global_id.latents[:, :, 1:].any()


def test_global_id_options(run_node, analysis, two_photos, vae):
    def extract(face=analysis[0], **options):
        return run_node("ConsisIDGlobalIDExtractor", face=face, vae=vae, **{**SIZE, **options})[0].latents

    plain = extract()
    assert torch.equal(extract(two_photos), plain), "the first photo gives the global half"
    noisy = extract(noise_augmentation=0.05)
    assert torch.equal(noisy, extract(noise_augmentation=0.05)) and not torch.equal(noisy, plain)

    with_keypoints = extract(keypoints=True)
    assert torch.equal(with_keypoints[:, :, :1], plain[:, :, :1]) and not with_keypoints[:, :, 2:].any()
    face = analysis[0]
    drawing = draw_keypoints(map_points(face.alignment[0].numpy(), face.landmarks[0].numpy()))
    with torch.inference_mode():
        expected = vae.encode(torch.from_numpy(fit_picture(drawing, 96, 64, "stretch")).float().div(255)[None])
    assert torch.equal(with_keypoints[:, :, 1:2], expected)


@pytest.mark.parametrize("keypoints", [True, False])
def test_key_points_warn_once_that_the_release_does_not_know_them(run_node, analysis, vae, caplog, keypoints):
    run_node("ConsisIDGlobalIDExtractor", face=analysis[0], vae=vae, keypoints=keypoints, **SIZE)
    warnings = [record for record in caplog.records if "not trained with key points" in record.message]
    assert [record.levelname for record in warnings] == ["WARNING"] * keypoints


def test_noise_augmentation_has_the_stated_deviation(run_node, analysis, vae, monkeypatch):
    """In -1..1, where 0.05 is what training used."""
    seen, encode = [], vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: seen.append(pixels * 2 - 1) or encode(pixels))
    for sigma in (0.0, 0.05):
        run_node("ConsisIDGlobalIDExtractor", face=analysis[0], vae=vae, noise_augmentation=sigma, **SIZE)
    clean, noisy = seen
    assert (noisy - clean).std().item() == pytest.approx(0.05, rel=0.05)


def test_letterbox_keeps_proportions_on_white():
    picture = np.zeros((512, 512, 3), np.uint8)
    boxed = fit_picture(picture, 96, 64, "letterbox")
    assert boxed.shape == (64, 96, 3)
    assert (boxed[:, :16] == 255).all() and (boxed[:, -16:] == 255).all() and not boxed[:, 16:-16].any()
    assert not fit_picture(picture, 96, 64, "stretch").any()


@torch.inference_mode()
def reference_tokens(reference, face_models, face):
    eva = face_models.eva.model
    embedding, hidden = eva(preprocess(face.gray_image.movedim(-1, 1), eva.image_size))
    return reference.local_facial_extractor(torch.cat([face.embedding, embedding], dim=-1), hidden)


def test_local_id_equals_diffusers(run_node, model, face_models, analysis, two_photos, reference):
    (local_id,) = run_node("ConsisIDLocalIDExtractor", model=model, face_models=face_models, face=analysis[0])
    expected = reference_tokens(reference, face_models, analysis[0])
    assert local_id.tokens.shape == (1, 32, 64)
    assert relative_error(local_id.tokens, expected) <= 1e-5
    (fused,) = run_node("ConsisIDLocalIDExtractor", model=model, face_models=face_models, face=two_photos)
    expected = reference_tokens(reference, face_models, two_photos)
    assert relative_error(fused.tokens, expected.mean(0, keepdim=True)) <= 1e-5
    assert relative_error(expected[:1], expected[1:]) > 1e-2


def test_local_id_does_not_load_the_transformer(run_node, model, face_models, analysis):
    comfy.model_management.unload_all_models()
    run_node("ConsisIDLocalIDExtractor", model=model, face_models=face_models, face=analysis[0])
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert loaded and model not in loaded
    assert not any(isinstance(patcher.model, type(model.model)) for patcher in loaded if patcher is not None)


def test_local_id_sees_lora_patches(run_node, model, face_models, analysis, reference):
    patched = model.clone()
    difference = 0.3 * torch.randn(reference.local_facial_extractor.layers[0][0].to_q.weight.shape)
    key = "diffusion_model.local_facial_extractor.layers.0.0.to_q.weight"
    assert patched.add_patches({key: (difference,)}, 0.5) == [key]
    before = model.model.diffusion_model.local_facial_extractor.layers[0][0].to_q.weight.clone()
    (local_id,) = run_node("ConsisIDLocalIDExtractor", model=patched, face_models=face_models, face=analysis[0])
    plain = reference_tokens(reference, face_models, analysis[0])
    weight = reference.local_facial_extractor.layers[0][0].to_q.weight
    weight.data += 0.5 * difference
    merged = reference_tokens(reference, face_models, analysis[0])
    weight.data -= 0.5 * difference
    assert relative_error(local_id.tokens, merged) <= 1e-5
    assert relative_error(merged, plain) > 1e-3
    assert torch.equal(before, model.model.diffusion_model.local_facial_extractor.layers[0][0].to_q.weight)
