"""Every form of a checkpoint reads to the same tensors, without ComfyUI too."""

import json

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.files import DEMO_MARKER
from consisid_pack.consisid_core.checkpoint.reading import list_checkpoint, read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from safetensors.torch import save_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4).half()}


def write_shards(folder):
    folder.mkdir()
    files = {f"m-0000{number}-of-00002.safetensors": name for number, name in enumerate(TENSORS, start=1)}
    for file, name in files.items():
        save_file({name: TENSORS[name]}, folder / file, {"format": "pt", DEMO_MARKER: "random"})
    weight_map = {name: file for file, name in files.items()}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


FORMS = {
    "one.safetensors": lambda path: save_file(TENSORS, path, {"format": "pt", "config": '{"num_layers": 2}'}),
    "one.pth": lambda path: torch.save(TENSORS, path),
    "old.pth": lambda path: torch.save(TENSORS, path, _use_new_zipfile_serialization=False),
    "training.bin": lambda path: torch.save({"state_dict": TENSORS, "step": 3}, path),
    "counters.bin": lambda path: torch.save({**TENSORS, "step": 3}, path),
    "shards": write_shards,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_tensors(form, tmp_path):
    path = tmp_path / form
    FORMS[form](path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.path == path and checkpoint.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert checkpoint.config == ({"num_layers": 2} if form == "one.safetensors" else {})
    assert checkpoint.is_demo == (form == "shards") and len(checkpoint.files) == 1 + checkpoint.is_demo
    listed = list_checkpoint(path)
    assert listed.shapes == checkpoint.shapes and listed.config == checkpoint.config
    assert listed.is_demo == checkpoint.is_demo


def test_tensors_stay_mapped(tmp_path):
    """A change of the file is seen, as long as nothing has written to the tensor."""
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    tensor = read_checkpoint(path).tensors["x"]
    with open(path, "r+b") as stream:
        stream.seek(path.stat().st_size - 4)
        stream.write(b"\0\0\x80\x3f")
    assert tensor[-1] == 1


def test_another_reader_is_handed_in(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    asked = []

    def read_file(file):
        asked.append(file)
        return {"x": torch.ones(1), DEMO_MARKER: torch.ones(1)}, {"config": '{"num_layers": 3}'}

    checkpoint = read_checkpoint(path, read_file)
    assert asked == [path] and checkpoint.tensors.keys() == {"x"}
    assert checkpoint.config == {"num_layers": 3} and checkpoint.is_demo


def test_noted_quantisation_becomes_tensors(tmp_path):
    layers = {"a": {"format": "float8_e4m3fn"}}
    save_file(TENSORS, tmp_path / "a.safetensors", {"_quantization_metadata": json.dumps({"layers": layers})})
    noted = read_checkpoint(tmp_path / "a.safetensors").tensors["a.comfy_quant"]
    assert json.loads(bytes(noted.tolist())) == layers["a"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ConsisIDError, match=r"a\.txt is not a weight file: .*\.safetensors.*\.gguf are read"):
        read_checkpoint(tmp_path / "a.txt")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ConsisIDError, match=r"list\.pth holds no named tensors"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_parameter_in_two_shards(tmp_path):
    write_shards(tmp_path / "shards")
    save_file(TENSORS, tmp_path / "shards/m-00002-of-00002.safetensors")
    for read in (read_checkpoint, list_checkpoint):
        with pytest.raises(ConsisIDError, match=r"repeats 1 parameters of another shard \(a\.weight\)\. Files of two"):
            read(tmp_path / "shards")
