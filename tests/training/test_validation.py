"""What validation scores and writes. When it happens, and by which weights, is tested in test_run_validation.py."""

import json
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.face_similarity import FaceScorer
from consisid_pack.consisid_core.training import validation as module
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.cases import CaseSet
from consisid_pack.consisid_core.training.sample import Sampling
from consisid_pack.consisid_core.training.validation import Validator, image_latents, predictor, read_scores
from helpers.oracle import build_ours, build_reference
from helpers.training import GEOMETRY, random_clip, write_random_cache
from helpers.training_cases import write_random_cases
from helpers.training_runs import NET


@pytest.fixture
def cases(tmp_path, models_dir, pack):
    folder = write_random_cache(tmp_path / "cache", [random_clip(0, text_length=12, text_dim=24)])
    vae = models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors"
    write_random_cases(folder, NET, GEOMETRY, vae, pack)
    return CaseSet(ClipCache(folder))


def test_the_persons_face_scores_and_frames_without_one_count_as_none(cases, detector, tmp_path, monkeypatch):
    astronaut = skimage.data.astronaut()
    arc = torch.from_numpy(FaceScorer(detector, "strict").reference([astronaut]).arc)
    cases._cases[:] = [replace(case, arc=arc) for case in cases]
    blank = np.zeros_like(astronaut)
    videos = iter([np.stack([astronaut, blank]), np.stack([blank, blank])])
    monkeypatch.setattr(module, "decode", lambda vae, latents: torch.from_numpy(next(videos)))
    validator = Validator(cases, Sampling(2, 6.0, 1), ["CPUExecutionProvider"])
    scores = validator.write(tmp_path / "out", [torch.zeros(16, 3, 4, 6)] * 2, torch.device("cpu"), {"step": 7})
    assert [score.frames_without_face for score in scores] == [1, 2]
    assert scores[0].face_sim == pytest.approx(0.5, abs=0.01) and scores[1].face_sim == 0
    (tmp_path / "validation").mkdir()
    (tmp_path / "out").rename(tmp_path / "validation" / "000007")
    (summary,) = read_scores(tmp_path)
    assert summary["step"] == 7 and summary["without_face"] == 0.75 and summary["is_stand_in"]
    assert summary["face_sim"] == pytest.approx(0.25, abs=0.01) and summary["sampling"]["steps"] == 2


def test_image_latents_are_those_of_inference(cases):
    case = cases[0]
    latents = image_latents(case, NET)
    torch.testing.assert_close(latents[:, 0], case.face_latents.float() * 0.7)
    assert latents.shape == (16, 3, 4, 6) and not latents[:, 1:].any()
    with_points = image_latents(case, replace(NET, keypoints=True))
    torch.testing.assert_close(with_points[:, 1], case.keypoint_latents.float() * 0.7)
    assert torch.equal(with_points[:, 0], latents[:, 0]) and not with_points[:, 2:].any()


@torch.no_grad()
def test_a_net_is_told_the_person(cases):
    net = build_ours(build_reference(
        num_attention_heads=3, attention_head_dim=16, num_layers=4, in_channels=32, out_channels=16, text_embed_dim=24,
        max_text_seq_length=12, sample_height=4, sample_width=6, sample_frames=9, LFE_id_dim=544, LFE_vit_dim=64,
    ))  # fmt: skip
    inputs = torch.randn(1, 32, 3, 4, 6), torch.tensor([500]), cases[0].text[None].float()
    one, other = (predictor(net)(case)(*inputs) for case in cases)
    case = cases[0]
    tokens = net.local_facial_extractor(case.id_embedding[None], list(case.hidden_states.float()[:, None]))
    torch.testing.assert_close(one, net(*inputs, tokens))
    assert not torch.allclose(one, other)


def test_damaged_scores_are_named(tmp_path):
    (tmp_path / "validation/000001").mkdir(parents=True)
    (tmp_path / "validation/000001/scores.json").write_text(json.dumps({})[:1])
    with pytest.raises(ConsisIDError, match=r"scores.json is damaged .* Remove it"):
        read_scores(tmp_path)
