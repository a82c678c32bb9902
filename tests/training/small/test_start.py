import json
import os

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.parsing import BiSeNet
from consisid_pack.consisid_core.training.small import start
from consisid_pack.consisid_core.training.small.nets import Identity, Sizes, TextAndVideo
from consisid_pack.consisid_core.training.small.stage import read_state

ABOUT = {"vocabulary": "[0, 1, 2]", "what": "a test"}


def test_matrices_are_rounded_by_rows_and_the_rest_is_kept(tmp_path):
    torch.manual_seed(0)
    sizes = torch.logspace(-3, 2, 128).unsqueeze(1)
    matrix = torch.randn(128, 128) * sizes
    parts = {
        "net": {
            "a.weight": matrix,
            "table": torch.randn(1, 64, 256),
            "a.bias": torch.randn(128),
            "count": torch.tensor(3),
        },
        "code": {"basis": torch.randn(768, 16)},
    }
    start.write_start(parts, ABOUT, tmp_path / "x.safetensors")
    read, about = start.read_start(tmp_path / "x.safetensors")
    assert about["what"] == "a test"
    assert {part: set(tensors) for part, tensors in read.items()} == {part: set(x) for part, x in parts.items()}
    error = (read["net"]["a.weight"] - matrix).abs()
    assert (error <= matrix.abs().amax(1, keepdim=True) / 127 * 0.52).all()
    assert ((read["net"]["table"] - parts["net"]["table"]).norm() / parts["net"]["table"].norm()) < 0.01
    torch.testing.assert_close(read["net"]["a.bias"], parts["net"]["a.bias"], atol=1e-3, rtol=1e-3)
    assert read["net"]["count"] == 3
    assert torch.equal(read["code"]["basis"], parts["code"]["basis"])


def test_the_file_of_the_repository_holds_nets_of_the_shipped_sizes():
    assert os.path.getsize(start.START_FILE) <= 14e6
    parts, about = start.read_start()
    sizes, rows = Sizes(), len(json.loads(about["vocabulary"]))
    Identity(sizes).load_state_dict(parts["identity"])
    BiSeNet(width=sizes.parser_width).load_state_dict(parts["parser"])
    denoiser = TextAndVideo(sizes, rows).load_state_dict(parts["denoiser"], strict=False)
    assert denoiser.missing_keys == ["text.encoder.embed_tokens.weight"] and not denoiser.unexpected_keys
    assert {"what", "trained_on", "training", "held_out", "licence"} <= about.keys()


def test_begin_fills_a_folder_once(tmp_path):
    start.begin(tmp_path)
    assert len(read_state(tmp_path, "vocabulary")["tokens"]) == 87
    net = TextAndVideo(Sizes(), 87)
    net.load_state_dict(read_state(tmp_path, "denoiser")["averaged"])
    with pytest.raises(ConsisIDError, match="has a vocabulary.pt already.*without --start"):
        start.begin(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ConsisIDError, match=r"x\.safetensors cannot be read.*without --start"):
        start.read_start(tmp_path / "x.safetensors")
