import pytest
from consisid_pack.consisid_core.batch.weight_digest import weight_digest
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import node


def digest(folder, name):
    return weight_digest({"1": node("Loader", model_name=name, prompt="A long text.\nOf two lines.", steps=3)}, folder)


def test_the_digest_goes_by_what_the_files_hold(tmp_path):
    file = tmp_path / "models" / "diffusion_models" / "net" / "a.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(300_000))
    first = digest(tmp_path, "net")
    assert first and digest(tmp_path, "net/a.safetensors") != first and digest(tmp_path, "other") == ""
    file.touch()
    assert digest(tmp_path, "net") == first, "not by the date"
    file.write_bytes(bytes(150_000) + b"1" + bytes(149_999))
    assert digest(tmp_path, "net") != first
    (file.parent / "b.safetensors").write_bytes(b"")
    file.write_bytes(bytes(300_000))
    assert digest(tmp_path, "net") != first


def test_face_packs_are_found(tmp_path):
    pack = tmp_path / "models" / "insightface" / "models" / "antelopev2"
    pack.mkdir(parents=True)
    (pack / "det.onnx").write_bytes(b"net")
    assert digest(tmp_path, "antelopev2")


def test_a_folder_that_is_no_comfyui_is_named(tmp_path):
    with pytest.raises(ConsisIDError, match="neither a ComfyUI folder"):
        digest(tmp_path, "net")
