"""The model card; what it counts of a run is tested where it is written, in test_export.py."""

import json

import pytest
from consisid_pack.consisid_core.training.checkpoint import Progress
from consisid_pack.consisid_core.training.model_card import model_card
from consisid_pack.consisid_core.training.trained import TrainedWeights
from helpers.training_runs import NET, small_config


@pytest.fixture
def weights(tmp_path):
    config = small_config(tmp_path)
    return TrainedWeights(tmp_path, config, Progress("fine", step=30), False, NET, {}, True, {}, {})


def test_figures_of_validation_up_to_the_step(weights, tmp_path):
    for step, sim in ((10, 0.25), (20, 0.5), (40, 0.9)):
        folder = tmp_path / "validation" / f"{step:06d}"
        folder.mkdir(parents=True)
        score = {"step": step, "stage": "fine", "face_sim": sim, "without_face": 0.125, "cases": [{}, {}],
                 "recogniser": "buffalo_l", "is_stand_in": False}  # fmt: skip
        (folder / "scores.json").write_text(json.dumps(score))
    card = model_card(weights, "mine", is_lora=False)
    assert "| 10 | fine | 0.250 | 12.5% | 2 |\n| 20 | fine | 0.500 | 12.5% | 2 |" in card
    assert "| 0.900 |" not in card and "the recogniser in `buffalo_l`" in card and "stand-in, whose" not in card
    assert (
        card.startswith("---\nlibrary_name: diffusers\n")
        and "\n# mine\n" in card
        and "these are the last weights" in card
    )


def test_a_cache_that_is_gone(weights, tmp_path):
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    assert "cannot be counted any more: its cache is gone" in model_card(weights, "mine", is_lora=True)
