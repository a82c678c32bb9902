"""The weights that a checkpoint stands for; as files they are tested in test_export.py."""

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.checkpoint import latest, read_tensors
from consisid_pack.consisid_core.training.run import run
from consisid_pack.consisid_core.training.trained import trained_weights
from helpers.training_runs import small_config

STAGES = {
    "coarse": "steps = 0",
    "fine": "steps = 2\nlearning_rate = 1e-1\n[stages.fine.train]\n'*.lora_*' = 1.0\n'*.to_q.base_layer.weight' = 1.0",
}


def test_a_lora_beside_a_trained_layer_is_added_in(tmp_path):
    run(small_config(tmp_path, "[lora]\nrank = 2\nalpha = 3\n", stages=STAGES), tmp_path / "run", "cpu")
    weights = trained_weights(tmp_path / "run")
    name = "transformer_blocks.0.attn1.to_q"
    averages = read_tensors(latest(tmp_path / "run"), "ema")
    base = averages[f"{name}.base_layer.weight"]
    down, up = averages[f"{name}.lora_A.default.weight"], averages[f"{name}.lora_B.default.weight"]
    merged = weights.merged(torch.float32)
    torch.testing.assert_close(merged[f"{name}.weight"], base + 3 / 2 * up @ down)
    assert merged.keys() == weights.base.keys() and weights.is_base_whole
    assert not torch.equal(weights.base[f"{name}.weight"], base)


def test_no_run_and_no_checkpoint(tmp_path):
    with pytest.raises(ConsisIDError, match="holds no training run"):
        trained_weights(tmp_path)
    small_config(tmp_path)
    with pytest.raises(ConsisIDError, match="holds no checkpoint yet"):
        trained_weights(tmp_path)
