"""Which files the nets are read from, and files that are none."""

from consisid_pack.consisid_core.evaluation.models import load_models, model_files
from helpers.evaluation import refused


def test_wrong_files_are_named(pack, files, tmp_path):
    curricular, inception, clip = files
    with refused(f"{inception} is not a CurricularFace recogniser.*Choose glint360k_curricular_face_r101_backbone.bin"):
        load_models(pack, ["CPUExecutionProvider"], inception)
    with refused(f"{curricular} is not an InceptionV3.*Choose torchvision's inception_v3_google"):
        load_models(pack, ["CPUExecutionProvider"], None, curricular)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(curricular.read_bytes()[:5000])
    with refused("cut.bin"):
        load_models(pack, ["CPUExecutionProvider"], cut)


def test_model_files_are_those_that_are_read(pack, files, tmp_path):
    found = model_files(pack, *files)
    assert {path.suffix for path in found["pack"]} == {".onnx"} and len(found["pack"]) == 2
    assert found["curricular_face"] == files[:1] and found["inception"] == files[1:2]
    assert {path.name for path in found["clip"]} == {path.name for path in files[2].iterdir()}
    # transformers takes the .safetensors where both are there.
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).touch()
    assert [path.name for path in model_files(pack, clip=tmp_path)["clip"]] == ["config.json", "model.safetensors"]
    assert model_files(pack) == {"pack": found["pack"], "curricular_face": [], "inception": [], "clip": []}
