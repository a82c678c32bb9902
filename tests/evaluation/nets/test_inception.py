"""The two Inceptions' files."""

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.nets.inception import Inception


@pytest.mark.parametrize("kind", ["paper_weights", "fidelity_weights"])
def test_inception_does_without_the_counters_of_training(kind, request, crops):
    weights = request.getfixturevalue(kind)
    lean = {name: x for name, x in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(lean) < len(weights)
    features = [Inception.from_state_dict(x).features(crops[0][0]) for x in (weights, lean)]
    assert np.array_equal(*features)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.clear(), "is not an InceptionV3: Conv2d_1a_3x3.conv.weight is missing; .* an empty file"),
        (lambda w: w.update({"fc.weight": torch.zeros(10, 2048)}), "is an InceptionV3 of 10 classes, neither"),
        (lambda w: w.update({"fc.weight": torch.zeros(1008, 2048)}), "unknown: AuxLogits.conv0.conv.weight"),
        (lambda w: w.pop("Mixed_6e.branch_pool.bn.bias"), "1 missing: Mixed_6e.branch_pool.bn.bias"),
        (lambda w: w.update({"Mixed_5b.branch1x1.bn.bias": torch.zeros(3)}), "wrong shape: Mixed_5b.branch1x1.bn.bias"),
    ],
)
def test_inception_says_what_is_wrong_with_a_file(paper_weights, change, message):
    weights = dict(paper_weights)
    change(weights)
    with pytest.raises(ConsisIDError, match=message):
        Inception.from_state_dict(weights)
