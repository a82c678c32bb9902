"""The comparison of whole clips at its smallest size: that it measures, never how fast."""

import pytest
import torch
from consisid_pack.consisid_core.dev import benchmark_clip
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.benchmarks import measured


@pytest.mark.parametrize("what, row", [("clip", "a clip's latents"), ("video", "photo to frames")])
def test_table_is_complete(capsys, what, row):
    title, rows = measured(what, capsys)
    assert title.startswith(f"{what}, small, fp32, cpu: 9 frames of 96x64, 2 DPM steps with guidance 6")
    assert rows == [row, f"{row}, processor time", f"peak memory of {row}, besides weights"]


@pytest.fixture(scope="module")
def contest():
    with torch.inference_mode():
        return benchmark_clip.ClipContest("small", "cpu", "fp32")


@torch.inference_mode()
def test_frames_of_a_clip_of_one_step_equal_those_of_the_pipeline(contest, monkeypatch):
    monkeypatch.setattr(contest, "sampling", benchmark_clip.COMPARED)
    identity = contest.an_identity("small")
    ours, theirs = contest.our_frames(identity), torch.from_numpy(contest.their_frames(identity))
    assert ours.shape == theirs.shape == (9, 64, 96, 3) and theirs.std() > 0.05
    assert (ours - 255 * theirs).abs().max() <= 2


@torch.inference_mode()
def test_prompts_in_the_other_order_are_noticed(contest, monkeypatch):
    identity = contest.an_identity("small")
    contest.require_agreement(identity, "fp32")
    in_one_batch = benchmark_clip.in_one_batch
    monkeypatch.setattr(benchmark_clip, "in_one_batch", lambda predict, texts: in_one_batch(predict, texts[::-1]))
    with pytest.raises(ConsisIDError, match="pipelines disagree"):
        contest.require_agreement(identity, "fp32")
