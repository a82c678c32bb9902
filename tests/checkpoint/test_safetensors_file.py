"""What a .safetensors header says, against safetensors itself. Damage is also tested through `weights check`."""

import json
import struct

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.safetensors_file import FORMAT_NAMES, ITEM_SIZES, read_header
from consisid_pack.consisid_core.errors import ConsisIDError
from safetensors.torch import save_file

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.ones(4, dtype=torch.float8_e4m3fn),
    "c": torch.tensor([1, 2, 250], dtype=torch.uint8),
    "d": torch.zeros(0, 7, dtype=torch.bfloat16),
}


@pytest.fixture
def file(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", {"key": "value"})
    return tmp_path / "a.safetensors"


def test_header_lists_what_was_written(file):
    listed, metadata = read_header(file)
    assert metadata == {"key": "value"} and listed.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert listed[name].shape == tuple(tensor.shape) and listed[name].dtype == FORMAT_NAMES[str(tensor.dtype)]
        assert listed[name].end - listed[name].start == tensor.nbytes
        assert listed[name].is_floating_point() == tensor.is_floating_point()
    assert listed["c"].tolist() == [1, 2, 250]


def test_sizes_are_torchs():
    for torch_name, name in FORMAT_NAMES.items():
        assert getattr(torch, torch_name.removeprefix("torch.")).itemsize == ITEM_SIZES[name]


def write(file, header, size=0):
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"shape": [2], "data_offsets": [0, 8]},
        "a",
    ],
)
def test_headers_that_describe_no_tensors(tmp_path, entry):
    write(tmp_path / "a.safetensors", {"x": entry}, size=8)
    with pytest.raises(ConsisIDError, match="has a header that describes no tensors"):
        read_header(tmp_path / "a.safetensors")


def test_a_format_of_the_future_is_listed(tmp_path):
    write(tmp_path / "a.safetensors", {"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, size=2)
    listed, _ = read_header(tmp_path / "a.safetensors")
    assert listed["x"].dtype == "F4"
