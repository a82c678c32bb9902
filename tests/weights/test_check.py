"""`python -m consisid_core.weights --check`: each way in which a set of weights can be wrong is named."""

import json
import os
import re
import shutil

import pytest
import torch
from helpers.hub import Hub
from helpers.weights_command import call, environment, installed, run, tiny_release
from safetensors.torch import load_file, save_file

SHARD_1, SHARD_2 = (f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))
INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture(scope="module")
def release(models_dir, tmp_path_factory):
    return tiny_release(models_dir, tmp_path_factory.mktemp("release"))


@pytest.fixture
def models(release, tmp_path):
    return installed(release, tmp_path / "ComfyUI")


def truncate(file):
    os.truncate(file, file.stat().st_size - 100)


def check(models, *parts, command=call, **options):
    """(exit code, {part: what is said of it})"""
    code, out, err = command("--check", models, *(word for part in parts for word in ("--part", part)), **options)
    assert not err
    return code, dict(line.split(": ", 1) for line in out.splitlines())


def test_a_complete_set_is_ok(models):
    code, said = check(models, command=run)
    assert code == 0 and len(said) == 7
    assert said["transformer"] == "ok, 6.3 MB: 299 parameters, F32 in 2 files, random demo weights"
    assert said["vae"].startswith("ok, 9.0 MB: 240 parameters, F32")
    assert said["text_encoder"].startswith("ok, 4.3 MB: 21 parameters, F16 in 2 files")
    assert said["face_recogniser"].startswith("ok, 39.0 MB")


def test_missing_parts_are_named(tmp_path):
    (tmp_path / "models").mkdir()
    code, said = check(tmp_path)
    assert code == 1 and len(said) == 7
    assert all(text.startswith(f"WRONG: missing; it belongs at {tmp_path / 'models'}") for text in said.values())


def _edit_index(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["proj_out.bias"] = SHARD_1
    (folder / INDEX).write_text(json.dumps(index))


def _rename(folder):
    tensors = load_file(folder / SHARD_2)
    tensors["proj_out.biases"] = tensors.pop("proj_out.bias")
    save_file(tensors, folder / SHARD_2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["proj_out.biases"] = index["weight_map"].pop("proj_out.bias")
    (folder / INDEX).write_text(json.dumps(index))


def _drop(folder):
    tensors = load_file(folder / SHARD_2)
    del tensors["proj_out.weight"]
    save_file(tensors, folder / SHARD_2)
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["proj_out.weight"]
    (folder / INDEX).write_text(json.dumps(index))


def _reshape(folder):
    tensors = load_file(folder / SHARD_2)
    tensors["proj_out.bias"] = torch.ones(7)
    save_file(tensors, folder / SHARD_2)


def _garble_header(folder):
    content = bytearray((folder / SHARD_1).read_bytes())
    content[8:20] = b"not a header"
    (folder / SHARD_1).write_bytes(content)


def _mix(folder):
    tensors = load_file(folder / SHARD_1)
    tensors["proj_out.bias"] = torch.ones(64)
    save_file(tensors, folder / SHARD_1)


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda f: truncate(f / SHARD_2), [f"{SHARD_2} is truncated: it holds 3,872,204 of 3,872,304 bytes"]),
        (lambda f: os.truncate(f / SHARD_1, 5), [f"{SHARD_1} is not a complete .safetensors file: 5 bytes"]),
        (lambda f: (f / SHARD_1).unlink(), ["is incomplete", SHARD_1]),
        (lambda f: (f / INDEX).unlink(), ["holds 0 index files"]),
        (_edit_index, [f"{INDEX} does not fit its shards: 1 parameters", "proj_out.bias"]),
        (_rename, ["1 missing: proj_out.bias;", "1 unknown: proj_out.biases"]),
        (_drop, ["is incomplete: parameter proj_out.weight is missing"]),
        (_reshape, ["proj_out.bias (7,) instead of (64,)"]),
        (_garble_header, ["The header of", SHARD_1, "cannot be read as JSON"]),
        (_mix, [f"{SHARD_2} repeats 1 parameters of another shard (proj_out.bias)"]),
        (lambda f: (f / f"{SHARD_1}.part").touch(), [f"{SHARD_1}.part is an unfinished download"]),
    ],
)  # fmt: skip
def test_a_damaged_transformer_is_named(models, damage, named):
    damage(models / "diffusion_models/ConsisID-preview/transformer")
    code, said = check(models, "transformer")
    assert code == 1 and said["transformer"].startswith("WRONG: ")
    for text in named:
        assert text in said["transformer"]


def test_another_models_file_is_named(models, release):
    folder = models / "diffusion_models/ConsisID-preview/transformer"
    shutil.rmtree(folder)
    shutil.copytree(release / "text_encoder", folder)
    vae = models / "vae/ConsisID-preview/vae/diffusion_pytorch_model.safetensors"
    save_file({"decoder.conv_in.weight": torch.ones(2)}, vae)
    shutil.rmtree(models / "text_encoders/ConsisID-preview/text_encoder")
    shutil.copytree(release / "transformer", models / "text_encoders/ConsisID-preview/text_encoder")
    face = models / "consisid/ConsisID-preview/face_encoder"
    (face / "parsing_bisenet.pth").rename(face / "x")
    (face / "EVA02_CLIP_L_336_psz14_s6B.pt").rename(face / "parsing_bisenet.pth")
    (face / "x").rename(face / "EVA02_CLIP_L_336_psz14_s6B.pt")
    onnx = models / "insightface/models/antelopev2"
    (onnx / "glintr100.onnx").rename(onnx / "x")
    (onnx / "scrfd_10g_bnkps.onnx").rename(onnx / "glintr100.onnx")
    (onnx / "x").rename(onnx / "scrfd_10g_bnkps.onnx")
    code, said = check(models)
    assert code == 1
    assert f"{folder} is not a ConsisID transformer: it looks like a T5 text encoder" in said["transformer"]
    assert f"{vae} is not a CogVideoX VAE: it looks like an image VAE" in said["vae"]
    assert "is not a T5 v1.1 text encoder: it looks like a ConsisID transformer" in said["text_encoder"]
    assert "is not a BiSeNet face parser" in said["face_parsing"] and "EVA-CLIP" in said["face_parsing"]
    assert "is not an EVA02-CLIP model" in said["eva_clip"]
    assert "scrfd_10g_bnkps.onnx is not a SCRFD detector" in said["face_detector"]
    assert "glintr100.onnx is not a recogniser of 512 values" in said["face_recogniser"]


def test_damaged_single_files_are_named(models):
    face = models / "consisid/ConsisID-preview/face_encoder"
    for name in ("parsing_bisenet.pth", "EVA02_CLIP_L_336_psz14_s6B.pt"):
        truncate(face / name)
    truncate(models / "vae/ConsisID-preview/vae/diffusion_pytorch_model.safetensors")
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        truncate(models / "insightface/models/antelopev2" / name)
    shard = models / "text_encoders/ConsisID-preview/text_encoder/model-00001-of-00002.safetensors"
    shard.chmod(0)
    code, said = check(models)
    assert code == 1 and "diffusion_pytorch_model.safetensors is truncated" in said["vae"]
    for part in ("face_parsing", "eva_clip"):
        assert "cannot be read as a weight file" in said[part] and "Download it again" in said[part]
    for part in ("face_detector", "face_recogniser"):
        assert "cannot be read as an ONNX model" in said[part]
    if os.geteuid():  # The superuser may read anything.
        assert f"{shard} may not be read by the user" in said["text_encoder"]


def test_a_pickle_with_code_is_refused_and_not_run(models, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "proof"),)

    torch.save({"x": Code()}, models / "consisid/ConsisID-preview/face_encoder/parsing_bisenet.pth")
    code, said = check(models, "face_parsing")
    assert code == 1 and "holds Python objects (posix.mkdir) besides tensors" in said["face_parsing"]
    assert not (tmp_path / "proof").exists()


def write_old_pickle(file):
    """The same tensors as torch wrote them before 1.6, and as some published files still are."""
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)


def test_pickles_of_the_old_form_are_whole(models):
    face = models / "consisid/ConsisID-preview/face_encoder"
    for name in ("parsing_bisenet.pth", "EVA02_CLIP_L_336_psz14_s6B.pt"):
        write_old_pickle(face / name)
    code, said = check(models, "face_parsing", "eva_clip")
    assert code == 0 and said["face_parsing"].startswith("ok, ") and said["eva_clip"].startswith("ok, ")
    _, out, _ = call("list", models)
    assert re.search("^face_parsing +present ", out, re.M) and re.search("^eva_clip +present ", out, re.M)
    truncate(face / "parsing_bisenet.pth")
    _, out, _ = call("list", models)
    assert re.search("^face_parsing +incomplete ", out, re.M)
    code, said = check(models, "face_parsing")
    assert code == 1 and "parsing_bisenet.pth cannot be read as a weight file" in said["face_parsing"]


def test_values_that_are_not_finite_are_named(models):
    file = models / "vae/ConsisID-preview/vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.conv.bias"][1] = float("nan")
    save_file(tensors, file)
    code, said = check(models, "vae")
    assert code == 1 and f"{file} holds values that are not finite" in said["vae"]
    assert "in 1 parameters (decoder.conv_out.conv.bias)" in said["vae"]


def test_a_missing_package_is_not_taken_for_a_bad_download(models, tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/__init__.py").write_text("raise ImportError('no timm here', name='timm')")
    code, said = check(models, "eva_clip", command=run, env=environment(PYTHONPATH=str(tmp_path)))
    assert code == 1 and "needs a Python package that does not import here (no timm here)" in said["eva_clip"]
    assert "ownload it again" not in said["eva_clip"]


def test_hash_finds_what_names_and_shapes_cannot(models, release):
    shard = models / "diffusion_models/ConsisID-preview/transformer" / SHARD_2
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert check(models, "transformer")[0] == 0
    with Hub("BestWishYsh/ConsisID-preview", release).serve() as endpoint:
        code, out, _ = run("check", models, "--hash", "--part", "transformer", env=environment(endpoint))
    assert code == 1 and f"{shard} is not the file that the hub has" in out


def test_a_substitute_is_named(models):
    folder = models / "diffusion_models/ConsisID-preview/transformer"
    target = models / "diffusion_models/single.safetensors"
    assert call("convert", folder, target, "--dtype", "fp8_e4m3fn")[0] == 0
    shutil.rmtree(folder)
    code, said = check(models, "transformer")
    assert code == 1 and "missing" in said["transformer"]  # Demo weights are no substitute.
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(target).items()}
    save_file(tensors, target)
    code, said = check(models, "transformer")
    assert code == 0 and said["transformer"].startswith(f"not there; {target} serves as well")
