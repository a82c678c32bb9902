"""The comparison of the face paths at its smallest size: that it measures, never how fast."""

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.dev import benchmark, benchmark_face
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.benchmarks import measured


@pytest.fixture(scope="module")
def contest():
    with torch.inference_mode():
        return benchmark_face.FaceContest("small", "cpu", torch.float32)


@pytest.fixture(autouse=True)
def built_once(monkeypatch, contest):
    monkeypatch.setattr(benchmark_face, "FaceContest", lambda *args: contest)


def test_table_is_complete(capsys):
    title, rows = measured("face", capsys)
    assert title.startswith("face, small, fp32, cpu: a photo of 256x256; YuNet and SFace on both sides in place of")
    timed = ["photo to tokens", "the same without facexlib's detector", "face parsing", "EVA tower", "facial extractor"]
    memory = "peak memory of photo to tokens, besides weights"
    assert sorted(rows) == sorted([*timed, *(f"{what}, processor time" for what in timed), memory])


@torch.inference_mode()
def test_both_find_the_face_and_whiten_a_part_of_it(contest):
    (picture, embedding, states), (expected, *_) = contest.ours(), contest.theirs()
    assert np.array_equal(picture, expected)
    assert 0.01 < (picture == 255).all(axis=-1).mean() < 0.99 and picture.std() > 10
    config = benchmark_face.extractor_config("small")
    assert embedding.shape == (1, config.id_dim) and states[0].shape[-1] == config.vit_dim


def test_face_paths_that_disagree_are_not_timed(monkeypatch):
    build_extractors = benchmark_face.build_extractors

    def with_one_weight_off(*args):
        ours, theirs = build_extractors(*args)
        ours.latents = torch.nn.Parameter(ours.latents + 0.1, requires_grad=False)
        return ours, theirs

    monkeypatch.setattr(benchmark_face, "build_extractors", with_one_weight_off)
    monkeypatch.setattr(benchmark_face, "timings", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(ConsisIDError, match="face paths disagree"):
        benchmark_face.compare_face("small", "cpu", "fp32", 1)


def test_a_type_that_the_face_path_lacks_is_refused():
    with pytest.raises(SystemExit, match="does not run in fp8. Choose --dtype fp32 or bf16"):
        benchmark.main(["--what", "face", "--size", "small", "--device", "cpu", "--dtype", "fp8"])
