"""The values on ConsisID's wires: equal by what is in them."""

from dataclasses import fields, replace

import pytest
import torch
from consisid_pack.consisid_core.types import Face, GlobalID, LocalID


def value(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return kind(**{field.name: torch.rand(2, 3, generator=generator) for field in fields(kind)})


@pytest.mark.parametrize("kind", [Face, GlobalID, LocalID])
def test_values_are_equal_by_their_tensors(kind):
    one = value(kind)
    assert one == one and one == value(kind) and not one != value(kind)
    assert one in [value(kind)]
    for field in fields(kind):
        tensor = getattr(one, field.name)
        for other in (tensor + 1e-6, tensor[:1], tensor.flatten(), tensor * float("nan")):
            assert one != replace(one, **{field.name: other})


def test_values_of_other_kinds_are_never_equal():
    tensor = torch.zeros(1, 2)
    assert GlobalID(tensor) != LocalID(tensor)
    for other in (tensor, None, "face", (tensor,)):
        assert LocalID(tensor) != other and not LocalID(tensor) == other


@pytest.mark.parametrize("kind", [Face, GlobalID, LocalID])
def test_values_are_not_hashable(kind):
    """Their tensors can be written into."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(value(kind))
