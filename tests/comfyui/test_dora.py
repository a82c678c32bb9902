"""DoRA on one weight against the paper's formula in float64; `test_lora.py` has it against PEFT, through the node."""

import copy

import comfy.lora
import pytest
import torch
from comfy.weight_adapter import LoHaAdapter, LoRAAdapter
from consisid_pack.consisid_core.comfyui.dora import DoraAdapter

ALPHA, RANK = 6.0, 4


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def lora(shape):
    up, down = randn(shape[0], RANK), randn(RANK, *shape[1:])
    difference = (up.double() @ down.double().flatten(1)).reshape(shape) * ALPHA / RANK
    return LoRAAdapter(set(), (up, down, ALPHA, None, None, None)), difference


def loha(shape):
    a, b, c, d = randn(shape[0], 4), randn(4, shape[1]), randn(shape[0], 5), randn(5, shape[1])
    return LoHaAdapter(set(), (a, b, None, c, d, None, None, None)), ((a @ b) * (c @ d)).double()


def patched(weight, adapter, strength=1.0, **options):
    patch = (strength, adapter, 1.0, None, options.pop("function", None))
    return comfy.lora.calculate_weight([patch], weight.clone(), "key", **options)


def formula(weight, difference, magnitude, axis):
    changed = weight.double() + difference
    length = changed.pow(2).sum([dim for dim in range(weight.ndim) if dim != axis], keepdim=True).sqrt()
    shape = [-1 if dim == axis else 1 for dim in range(weight.ndim)]
    return magnitude.double().reshape(shape) * changed / length


@pytest.mark.parametrize("axis", [0, 1], ids=["outputs", "inputs"])
@pytest.mark.parametrize(
    ("make", "shape"), [(lora, (24, 16)), (lora, (16, 16)), (lora, (16, 8, 2, 2)), (loha, (24, 16))]
)
def test_formula(make, shape, axis):
    adapter, difference = make(shape)
    weight, magnitude = randn(*shape), randn(shape[axis]).abs()
    wanted = formula(weight, difference, magnitude, axis)
    for strength in (1.0, 0.3, -1.0):
        result = patched(weight, DoraAdapter(set(), (adapter, magnitude, axis)), strength)
        torch.testing.assert_close(result.double(), weight + strength * (wanted - weight), rtol=1e-5, atol=1e-5)
    untouched = patched(weight, DoraAdapter(set(), (adapter, magnitude, axis)), 0.0)
    assert torch.equal(untouched, weight)


def test_bf16_weights_have_one_rounding():
    adapter, difference = lora((24, 4096))
    weight, magnitude = randn(24, 4096).bfloat16(), randn(24).abs()
    wanted = formula(weight, difference, magnitude, 0)
    result = patched(weight, DoraAdapter(set(), (adapter, magnitude, 0)), intermediate_dtype=torch.bfloat16)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), wanted, rtol=2**-8, atol=1e-6)


def test_a_row_without_length_stays_zero():
    adapter = LoRAAdapter(set(), (torch.zeros(2, 1), torch.zeros(1, 3), None, None, None, None))
    result = patched(torch.tensor([[0.0, 0, 0], [3, 0, 4]]), DoraAdapter(set(), (adapter, torch.ones(2), 0)))
    torch.testing.assert_close(result, torch.tensor([[0.0, 0, 0], [0.6, 0, 0.8]]))


def test_magnitudes_of_other_sizes_are_an_error():
    adapter, _ = lora((24, 16))
    for count in (1, 16, 48):
        with pytest.raises(RuntimeError):
            patched(randn(24, 16), DoraAdapter(set(), (adapter, torch.ones(count), 0)))


def test_it_is_built_again_as_comfyui_prefetches_patches():
    adapter, difference = lora((24, 16))
    first = DoraAdapter(set(), (adapter, torch.ones(24), 0))
    again = type(first)(first.loaded_keys, tuple(copy.copy(value) for value in first.weights))
    wanted = formula(randn(24, 16), difference, torch.ones(24), 0)
    torch.testing.assert_close(patched(randn(24, 16), again).double(), wanted, rtol=1e-5, atol=1e-5)
