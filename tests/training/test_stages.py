"""Where stages lie, and their learning rate."""

import dataclasses

import pytest
import torch
from consisid_pack.consisid_core.training.stages import placed_stages, rate_factor
from diffusers.optimization import get_scheduler
from helpers.training_runs import small_config


def test_stages_follow_each_other_and_those_without_steps_are_left_out(tmp_path):
    config = small_config(tmp_path, stages={"coarse": "steps = 3", "fine": "steps = 5"})
    stages = dict(config.stages) | {"polish": dataclasses.replace(config.stages["fine"], steps=2)}
    assert [(s.name, s.start, s.end) for s in placed_stages(stages)] == [
        ("coarse", 0, 3), ("fine", 3, 8), ("polish", 8, 10),
    ]  # fmt: skip
    stages["fine"] = dataclasses.replace(stages["fine"], steps=0)
    assert [(s.name, s.start) for s in placed_stages(stages)] == [("coarse", 0), ("polish", 3)]


@pytest.mark.parametrize("cycles", [1, 3])
def test_the_rate_is_that_of_the_reference(tmp_path, cycles):
    optimizer = dataclasses.replace(small_config(tmp_path).optimizer, warmup=5, cycles=cycles)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(
        "cosine_with_restarts", theirs, num_warmup_steps=5, num_training_steps=40, num_cycles=cycles
    )
    for step in range(40):
        assert rate_factor(step, 40, optimizer) == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        theirs.step()
        schedule.step()
