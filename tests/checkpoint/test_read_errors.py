"""What goes wrong while a file is read, in sentences: rights, memory, code, damage."""

import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.read_errors import reading
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.little_memory import sentence_for


def refused(read, path):
    with pytest.raises(ConsisIDError) as caught:
        read(path)
    assert caught.value.__cause__ is None and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("suffix", ["safetensors", "pth", "gguf"])
def test_files_that_may_not_be_read(suffix):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / f"locked.{suffix}"
        path.touch(mode=0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)  # Nobody, because root may read everything.
        try:
            assert f"{path} may not be read by the user" in refused(read_checkpoint, path)
        finally:
            if root:
                os.seteuid(0)


def test_a_missing_file(tmp_path):
    assert f"{tmp_path / 'a.pth'} does not exist" in refused(read_checkpoint, tmp_path / "a.pth")


def test_a_sentence_is_left_as_it_is(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ConsisIDError, match="^of its own$"), reading(tmp_path / "a"):
        raise ConsisIDError("of its own")


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory as Linux allows")
@pytest.mark.parametrize("kind", ["safetensors", "pickle", "pickle of the old form"])
def test_a_lack_of_memory_is_said_and_the_file_not_blamed(kind, tmp_path):
    size = 400_000_000
    if kind == "safetensors":  # Is mapped: here even that has no room.
        path = tmp_path / "large.safetensors"
        header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        os.truncate(path, 8 + len(header) + size)
    else:
        path = tmp_path / "large.pth"
        torch.save({"x": torch.zeros(size, dtype=torch.uint8)}, path, _use_new_zipfile_serialization=kind == "pickle")
    imports = "import torch, safetensors.torch; from consisid_core.checkpoint.reading import read_checkpoint"
    sentence = sentence_for(imports, f"read_checkpoint({str(path)!r})", size // 4)
    assert sentence.startswith(f"{path} (0.4 GB) does not fit into the free memory. Close other programs")
    assert "such as fp8" in sentence and "ownload" not in sentence
