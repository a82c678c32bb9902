"""The exceptions that reach a user, and what is told apart by the words of libraries' own."""

import importlib

import pytest
import torch
from consisid_pack.consisid_core.errors import (
    ConsisIDError,
    WeightsError,
    in_short,
    is_out_of_memory,
    optional_library,
)


def test_problem_and_remedy_make_sentences():
    error = WeightsError("is not a VAE", "a.safetensors", "Choose another.")
    assert isinstance(error, ConsisIDError) and error.problem == "is not a VAE"
    assert str(error) == "a.safetensors is not a VAE. Choose another."
    assert str(WeightsError("is not a VAE")) == "The state dict is not a VAE."


def test_a_missing_library_is_named_with_the_cure():
    with pytest.raises(ConsisIDError, match="^A plot needs a Python package .*no_such_library.*pip install") as caught:
        with optional_library("A plot"):
            importlib.import_module("no_such_library")
    assert caught.value.__suppress_context__
    with pytest.raises(ZeroDivisionError), optional_library("A plot"):
        raise ZeroDivisionError


def test_errors_of_libraries_are_cut_to_their_first_sentence():
    assert in_short(RuntimeError("bad header. See https://example.org\nmore")) == "RuntimeError: bad header"
    assert in_short(OSError()) == "OSError"
    assert len(in_short(ValueError("x" * 1000))) < 250


def test_a_lack_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("size mismatch"))
