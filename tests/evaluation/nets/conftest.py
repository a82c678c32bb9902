"""Weights of the two Inceptions."""

import pytest
import torch


@pytest.fixture(scope="session")
def paper_weights(inception_files):
    return torch.load(inception_files["paper"], weights_only=True)


@pytest.fixture(scope="session")
def fidelity_weights(inception_files):
    return torch.load(inception_files["strict"], weights_only=True)
