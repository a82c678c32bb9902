"""The tiny nets that prepare clips, loaded once."""

import pytest
from consisid_pack.consisid_core.training.encoders import EncoderPaths, Encoders


@pytest.fixture(scope="session")
def encoder_paths(models_dir):
    from helpers.training_nets import tiny_paths

    return EncoderPaths.find(None, **tiny_paths(models_dir))


@pytest.fixture(scope="session")
def encoders(encoder_paths):
    return Encoders(encoder_paths, "cpu", "CPU", text_length=226)
