"""The exceptions that reach a user."""

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import (
    ConsisIDError,
    WeightsError,
    in_short,
    is_out_of_memory,
    optional_library,
)


def test_a_missing_package_becomes_a_sentence():
    with pytest.raises(
        ConsisIDError, match=r"^Face analysis needs .* \(No module named 'absent'\)\. Install the pack's"
    ):
        with optional_library("Face analysis"):
            import absent  # noqa: F401


def test_the_parts_of_a_weights_error():
    assert str(WeightsError("is empty")) == "The state dict is empty."
    assert str(WeightsError("is empty", "a.pth", "Choose another.")) == "a.pth is empty. Choose another."


def test_errors_of_libraries_are_cut():
    assert in_short(ValueError("no. Try this")) == "ValueError: no" and in_short(KeyError()) == "KeyError"
    assert len(in_short(ValueError("x" * 999))) == len("ValueError: ") + 200


def test_real_lacks_of_memory_are_known():
    for allocate in (lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50), lambda: bytearray(1 << 60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value), caught.value
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
