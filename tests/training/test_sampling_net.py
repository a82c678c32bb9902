"""A transformer out of its file: in float32 on the CPU, and what is refused."""

import pytest
import torch
from consisid_pack.consisid_core.dev.tiny import TRANSFORMER
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.sampling_net import build_transformer, read_transformer


def test_transformer(models_dir):
    weights = read_transformer(models_dir / "diffusion_models/consisid_demo/transformer", "")
    net = build_transformer(weights, torch.device("cpu"))
    assert net.config == TRANSFORMER and net.proj_out.weight.dtype == torch.float32
    with pytest.raises(ConsisIDError, match="diffusion_pytorch_model.safetensors .*Name ConsisID's transformer"):
        read_transformer(models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors", "")
