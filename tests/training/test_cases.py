"""The people and prompts of validation: read, prepared with the nets of the cache, and read again."""

import json
from functools import partial

import comfy.text_encoders.sd3_clip
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.comfyui.extractors import extract_global_id
from consisid_pack.consisid_core.comfyui.vae import load_vae
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.face_similarity import FaceScorer
from consisid_pack.consisid_core.face.analyze import analyze_photos
from consisid_pack.consisid_core.training import cases as module
from consisid_pack.consisid_core.training.cache import ClipCache, Geometry, read_index, write_index
from consisid_pack.consisid_core.training.cases import CaseSet, has_cases, main, read_requests
from consisid_pack.consisid_core.training.encoders import EncoderPaths
from helpers.training import random_clip, write_random_cache
from PIL import Image

GEOMETRY = Geometry(width=96, height=64, frames=9, stride=1)


@pytest.fixture(scope="module")
def paths(models_dir, pack):
    tokenizer = comfy.text_encoders.sd3_clip.__file__.replace("sd3_clip.py", "t5_tokenizer")
    return EncoderPaths.find(
        None,
        vae=models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors",
        text_encoder=models_dir / "text_encoders/consisid_demo/text_encoder",
        tokenizer=models_dir.parent / tokenizer,
        eva=models_dir / "consisid/consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
        parser=models_dir / "consisid/consisid_demo/parsing_bisenet.pth",
        pack=pack,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, paths):
    """A cache that these nets made, as far as its index tells, with a photo beside it."""
    folder = tmp_path_factory.mktemp("cases")
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    cache = write_random_cache(folder / "cache", [random_clip(0, GEOMETRY)], GEOMETRY)
    index = read_index(cache)
    write_index(cache, type(index)(**{**vars(index), "nets": paths.fingerprints()}))
    return folder


def options(paths):
    names = ("vae", "text_encoder", "tokenizer", "eva", "parser", "pack")
    return [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(paths, name)))]


def write_cases(folder, *lines, name="cases.jsonl"):
    file = folder / name
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_cases_hold_what_inference_would_have(folder, paths, detector, models_dir, capsys):
    cases = write_cases(
        folder, {"photo": "astronaut.png", "prompt": "A person smiles."},
        {"photo": "astronaut.png", "prompt": "word " * 300, "name": "a long one!"},
    )  # fmt: skip
    assert not has_cases(ClipCache(folder / "cache"))
    assert main([str(cases), str(folder / "cache"), *options(paths)]) == 0
    printed = capsys.readouterr().out
    assert "The prompt of a_long_one_ is" in printed and "tokens too long" in printed
    cache = ClipCache(folder / "cache")
    first, second = CaseSet(cache)
    assert has_cases(cache) and [first.name, second.name] == ["01_astronaut", "a_long_one_"]
    assert first.latent_frames == 3 and first.photo.shape == (512, 512, 3) and first.text.shape == (226, 64)

    photo = torch.from_numpy(skimage.data.astronaut())
    parser = module_parser(models_dir)
    face, _ = analyze_photos(detector, parser, photo[None].float() / 255, "largest", 0)
    assert torch.equal(first.id_embedding[:512], face.embedding[0])
    vae = load_vae(paths.vae)
    with torch.inference_mode():
        expected = extract_global_id(face, vae, 96, 64, 9, keypoints=True).latents[0]
    for latents, frame in ((first.face_latents, 0), (first.keypoint_latents, 1)):
        torch.testing.assert_close(latents.float(), expected[:, frame], rtol=2e-3, atol=2e-3)
    reference = FaceScorer(detector, "strict").reference([photo.numpy()])
    torch.testing.assert_close(first.arc, torch.from_numpy(reference.arc))

    # Made anew in the place of the old ones.
    assert main([str(write_cases(folder, {"photo": "astronaut.png", "prompt": "x", "name": "new"})),
                 str(folder / "cache"), *options(paths)]) == 0  # fmt: skip
    assert [case.name for case in CaseSet(cache)] == ["new"]
    assert [path.name for path in (folder / "cache").glob("validation*")] == ["validation"]


def module_parser(models_dir):
    from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
    from consisid_pack.consisid_core.face.parsing import BiSeNet

    tensors = read_checkpoint(models_dir / "consisid/consisid_demo/parsing_bisenet.pth").tensors
    return BiSeNet.from_state_dict(tensors).eval()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"photo"'], "line 1 is not JSON"),
        (["[]"], "line 1 must look like"),
        ([{"photo": "a.jpg", "prompt": 3}], "line 1 must look like"),
        ([{"photo": "a.jpg", "promt": "x"}], "unknown key 'promt'. Did you mean 'prompt'?"),
        ([{"photo": "a.jpg", "prompt": ""}], "line 1 has no prompt"),
        ([{"prompt": "x"}], "line 1 has no photo"),
        ([{"photo": "a", "prompt": "x", "name": "b!"}, {"photo": "a", "prompt": "x", "name": "b?"}], "two cases"),
        ([], "is empty"),
    ],
    ids=str,
)
def test_lines_that_are_none(tmp_path, lines, words):
    with pytest.raises(ConsisIDError, match=words.replace("?", r"\?")):
        read_requests(write_cases(tmp_path, *lines))


def test_names_are_made(tmp_path):
    lines = [{"photo": "x/me at home.jpg", "prompt": "a"}, {"photo": "b.png", "prompt": "c", "name": "two"}]
    first, second = read_requests(write_cases(tmp_path, *lines))
    assert (first.name, first.photo, first.prompt) == ("01_me_at_home", tmp_path / "x/me at home.jpg", "a")
    assert second.name == "two"


def test_bad_input_is_said_and_changes_nothing(folder, paths, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    run = partial(write_cases, tmp_path)
    black = [str(run({"photo": "black.png", "prompt": "x"})), str(folder / "cache"), *options(paths)]
    before = sorted(path.name for path in (folder / "cache").rglob("*"))
    assert main(black) == 1
    assert "black.png" in (said := capsys.readouterr().err) and "face" in said.lower()
    assert sorted(path.name for path in (folder / "cache").rglob("*")) == before
    assert main([black[0], str(tmp_path), *black[2:]]) == 1
    assert "holds no prepared cache" in capsys.readouterr().err
    other = write_random_cache(tmp_path / "other", [random_clip(0, GEOMETRY)], GEOMETRY)
    assert main([black[0], str(other), *black[2:]]) == 1
    assert "was made with other weights" in capsys.readouterr().err


def test_damaged_cases_name_the_command(folder, tmp_path):
    cache = ClipCache(write_random_cache(tmp_path, [random_clip(0, GEOMETRY)], GEOMETRY))
    (tmp_path / module.FOLDER).mkdir()
    (tmp_path / module.FOLDER / "index.json").write_text('{"cases": ["gone"], "vae": "a", "score_pack": "b"}')
    with pytest.raises(ConsisIDError, match="Make them again: python -m consisid_core.training cases CASES.jsonl"):
        CaseSet(cache)
