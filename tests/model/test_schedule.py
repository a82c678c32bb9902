"""Timesteps and guidance against the formulas of diffusers. The steps are compared in whole loops of the sampler."""

import math

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.model.schedule import (
    alphas_cumprod,
    guidance_scales,
    target_timesteps,
    trailing_timesteps,
)
from diffusers import CogVideoXDPMScheduler
from helpers.oracle import SCHEDULER


def test_trailing_timesteps_equal_diffusers():
    for steps in range(1, 1001):
        expected = np.round(np.arange(1000, 0, -1000 / steps)).astype(np.int64)[:steps] - 1
        assert trailing_timesteps(steps) == expected.tolist()
        assert min(expected) >= 0
    assert target_timesteps(50)[-2:] == [19, -1]


def test_guidance_curves():
    assert guidance_scales("constant", 6.0, 3) == [6.0] * 3
    dynamic = guidance_scales("dynamic", 6.0, 50)
    assert dynamic[0] == 1 and dynamic == sorted(dynamic) and 6.8 < dynamic[-1] < 7
    legacy = guidance_scales("dynamic_legacy", 6.0, 50)
    timesteps = range(999, 0, -20)
    assert legacy == pytest.approx([1 + 6 * (1 - math.cos(math.pi * ((50 - t) / 50) ** 5)) / 2 for t in timesteps])


def test_guidance_is_1_outside_its_range():
    # At 999, 749, 499 and 249.
    assert guidance_scales("constant", 6.0, 4, 0.26, 0.51) == [1.0, 1.0, 6.0, 1.0]
    assert guidance_scales("constant", 6.0, 4, 0.2, 0.6) == [1.0, 6.0, 6.0, 1.0]
    for guidance in ("constant", "dynamic", "dynamic_legacy"):
        full = guidance_scales(guidance, 6.0, 50)
        assert guidance_scales(guidance, 6.0, 50, 0.0, 1.0) == full
        assert guidance_scales(guidance, 6.0, 50, 0.5, 1.0) == [1.0] * 25 + full[25:]


def test_alphas_are_those_of_the_references_scheduler():
    theirs = CogVideoXDPMScheduler(**SCHEDULER).alphas_cumprod.float()
    torch.testing.assert_close(alphas_cumprod(), theirs, rtol=1e-6, atol=0)
    assert alphas_cumprod()[-1] == 0
