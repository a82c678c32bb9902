"""GGUF files. That they load as a transformer is tested in comfyui/test_transformer.py."""

import sys

import gguf
import pytest
import torch
from consisid_pack.consisid_core.checkpoint.gguf_file import list_gguf, read_gguf
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.weight_forms import write_gguf

Q8_0 = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(6, 64, generator=generator), "a.bias": torch.randn(6, generator=generator)}


@pytest.fixture
def file(tmp_path, tensors):
    write_gguf(tmp_path / "a.gguf", tensors, {"a.weight": Q8_0})
    return tmp_path / "a.gguf"


def test_tensors_are_unpacked_and_counted(file, tensors):
    counted = []
    read = read_gguf(file, lambda done, total: counted.append((done, total)))
    assert counted == [(1, 2), (2, 2)]
    assert all(tensor.dtype == torch.bfloat16 for tensor in read.values())
    assert torch.equal(read["a.bias"], tensors["a.bias"].bfloat16())
    unpacked = gguf.quants.dequantize(gguf.quants.quantize(tensors["a.weight"].numpy(), Q8_0), Q8_0)
    assert torch.equal(read["a.weight"], torch.from_numpy(unpacked).bfloat16())


def test_listing_has_the_same_names_and_shapes(file):
    listed, read = list_gguf(file), read_gguf(file, lambda *_: None)
    assert {name: x.shape for name, x in listed.items()} == {name: tuple(x.shape) for name, x in read.items()}
    assert listed["a.weight"].dtype == "Q8_0"


def test_what_the_callback_raises_passes_through(file):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        read_gguf(file, cancel)


def test_a_missing_package_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConsisIDError, match=r"a\.gguf needs the Python package gguf.*pip install gguf"):
        list_gguf(file)
