"""NaN and infinity are found in every type and named. When a loaded model is looked at: comfyui/test_transformer.py."""

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.finite import check_finite
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from safetensors.torch import save_file

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


def checkpoint(tmp_path, **tensors):
    save_file(tensors, tmp_path / "a.safetensors")
    return read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_value_that_is_not_finite(value, dtype, tmp_path):
    broken = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    broken[3, 5] = value
    weights = checkpoint(tmp_path, sound=torch.ones(3), broken=broken.to(dtype))
    with pytest.raises(
        ConsisIDError, match=r"a\.safetensors holds values that are not finite .* in 1 parameters \(bro"
    ):
        check_finite(weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extremes_are_finite(dtype, tmp_path):
    extremes = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, 0.0], dtype=torch.float64).to(dtype)
    seen = []
    check_finite(checkpoint(tmp_path, a=extremes, b=torch.zeros(0), c=torch.ones(2).int()), lambda: seen.append(1))
    assert len(seen) == 3
