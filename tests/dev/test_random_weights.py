"""Files of random weights appear whole or not at all."""

import pytest
import torch
from consisid_pack.consisid_core.dev.random_weights import randomize, replace


def test_a_stopped_run_leaves_the_earlier_file(tmp_path):
    file = tmp_path / "weights"
    replace(file, lambda path: path.write_text("earlier"))

    def stops(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(file, stops)
    assert file.read_text() == "earlier"


def test_a_seed_gives_the_same_weights_and_no_norm_vanishes():
    first, second, other = (
        randomize({"norm.weight": torch.empty(64), "proj.weight": torch.empty(64, 64)}, seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) and not torch.equal(first[name], other[name]) for name in first)
    assert abs(first["norm.weight"].mean() - 1) < 0.1 and abs(first["proj.weight"].std() * 8 - 1) < 0.1
