import json

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.comfyui.text_encoder import load_text_encoder
from consisid_pack.consisid_core.comfyui.transformer import load_transformer
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.eva_clip import EvaClipVisual
from consisid_pack.consisid_core.face.parsing import BiSeNet
from consisid_pack.consisid_core.model.vae import CogVideoXVAE
from consisid_pack.consisid_core.training.encoders import _build_vae
from consisid_pack.consisid_core.training.small.assemble import SET_NAME, assemble
from consisid_pack.consisid_core.training.small.nets import Identity, TextAndVideo
from consisid_pack.consisid_core.training.small.stage import write_state
from consisid_pack.consisid_core.training.small.words import Vocabulary
from helpers.prediction import predict
from safetensors import safe_open

KINDS = ["consisid", "insightface"]


@pytest.fixture(scope="module")
def nets(sizes):
    """The nets in training, in bf16's values, with nothing at rest."""
    torch.manual_seed(0)
    nets = {
        "denoiser": TextAndVideo(sizes, 7),
        "identity": Identity(sizes),
        "parser": BiSeNet(width=sizes.parser_width),
        "videos": CogVideoXVAE(sizes.vae_widths, 1),
    }
    with torch.no_grad():
        for net in nets.values():
            for x in net.parameters():
                x.add_(0.05 * torch.randn_like(x)).copy_(x.bfloat16())
    return {name: net.eval().requires_grad_(False) for name, net in nets.items()}


@pytest.fixture(scope="module")
def work(tmp_path_factory, nets, tokenizer):
    folder = tmp_path_factory.mktemp("work")
    tokens = Vocabulary.of_captions(tokenizer, ["a red shirt"]).tokens
    assert len(tokens) == 7
    write_state(folder, "vocabulary", {"tokens": tokens})
    write_state(folder, "parser", {"averaged": nets["parser"].state_dict(), "steps": 7, "seconds": 90.0})
    tensors = {f"tensors.{i}": x for i, x in enumerate(nets["videos"].state_dict().values())}
    write_state(folder, "videos", {"averaged": tensors})
    identity = nets["identity"].state_dict()
    write_state(folder, "denoiser", {"averaged": nets["denoiser"].state_dict(), "identity": identity})
    return folder


@pytest.fixture(scope="module")
def folder(work, sizes, pack, tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    paths = assemble(work, out, sizes, pack)
    assert all(path.exists() for path in paths) and sorted(path.name for path in out.iterdir()) == KINDS
    return out / "consisid" / SET_NAME


def test_prompt_and_transformer_predict_in_comfyui_as_in_training(folder, nets, sizes, tokenizer, caplog):
    clip = load_text_encoder(folder / "text_encoder.safetensors")
    encoded = clip.encode_from_tokens(clip.tokenize("a red shirt")).float()
    net = nets["denoiser"]
    rows = Vocabulary.of_captions(tokenizer, ["a red shirt"]).rows("a red shirt", sizes.text_length)
    ids = torch.from_numpy(rows).long()[None]
    expected = net.text(input_ids=ids).last_hidden_state
    assert encoded.shape == expected.shape
    torch.testing.assert_close(encoded, expected, atol=2e-2 * expected.abs().max().item(), rtol=0)

    caplog.set_level("INFO", "consisid")
    patcher = load_transformer(folder / "transformer.safetensors")
    assert "transformer.safetensors: a small ConsisID that comes with the pack" in caplog.text
    assert f"{sizes.frames} frames of {sizes.pixels}x{sizes.pixels}" in caplog.text
    assert patcher.model.diffusion_model.config == sizes.transformer
    torch.manual_seed(1)
    noisy, picture, tokens = torch.randn(1, 16, 5, 4, 4), torch.randn(1, 16, 4, 4), torch.randn(1, 32, 32)
    image = torch.zeros_like(noisy)
    image[:, :, 0] = picture
    sampling = patcher.model.model_sampling
    sigma = sampling.sigmas[500]
    alpha = 1 / (1 + sigma**2)
    velocity = net(noisy, sampling.timestep(sigma[None]).long(), ids, picture, tokens)
    found = predict(patcher, (noisy, image, expected, tokens)).float()
    # The model takes x (1 + sigma^2)^0.5 and gives x0.
    wanted = alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity
    torch.testing.assert_close(found, wanted, atol=2e-2 * wanted.abs().max().item(), rtol=0)


def test_the_other_nets_load_and_equal_those_in_training(folder, nets):
    eva = EvaClipVisual.from_state_dict(read_checkpoint(folder / "eva_clip.safetensors").tensors)
    picture = torch.rand(1, 3, 112, 112)
    torch.testing.assert_close(eva.float()(picture)[0], nets["identity"].tower(picture)[0], atol=1e-3, rtol=1e-3)
    parser = BiSeNet.from_state_dict(read_checkpoint(folder / "parsing_bisenet.safetensors").tensors).float()
    face = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(parser(face), nets["parser"](face), atol=1e-2, rtol=1e-2)
    vae = _build_vae(read_checkpoint(folder / "vae.safetensors")).float()
    latents = torch.randn(1, 16, 5, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(latents), nets["videos"].decode(latents), atol=1e-3, rtol=1e-3)


def test_a_word_that_was_never_learned_is_the_unknown_one(folder, nets):
    with safe_open(folder / "text_encoder.safetensors", "pt") as stored:
        table, about = stored.get_tensor("shared.weight"), stored.metadata()
    assert table.shape == (32128, 32) and table.dtype == torch.bfloat16
    assert torch.equal(table[31000].float(), nets["denoiser"].text.shared.weight[2])
    assert about["licence"] == "Apache-2.0" and "do not exist" in about["trained_on"]
    assert json.loads(about["trained"])["parser"] == {"steps": 7, "minutes": 1.5}
    assert json.loads(about["config"])["max_text_seq_length"] == 8


def test_capital_letters_change_nothing(folder):
    clip = load_text_encoder(folder / "text_encoder.safetensors")
    prompts = [clip.encode_from_tokens(clip.tokenize(text)) for text in ("a red shirt", "A Red shirt")]
    assert torch.equal(*prompts)


def test_words_that_were_never_learned_are_named(folder, caplog):
    clip = load_text_encoder(folder / "text_encoder.safetensors")
    caplog.clear()
    clip.tokenize("A red shirt.")
    assert not caplog.text
    clip.tokenize("Blue (shirt:1.2), and blue!")
    (record,) = caplog.records
    assert record.getMessage().endswith("which mean nothing to it: blue, and")


@pytest.mark.parametrize("stage", ["denoiser", "parser", "videos", "vocabulary"])
def test_a_missing_part_names_its_stage(work, sizes, pack, tmp_path, stage):
    for file in work.glob("*.pt"):
        if file.stem != stage:
            (tmp_path / file.name).symlink_to(file)
    maker = "people" if stage == "vocabulary" else stage
    with pytest.raises(ConsisIDError, match=rf"no {stage}\.pt yet.*--stages {maker}"):
        assemble(tmp_path, tmp_path / "out", sizes, pack)
    assert not (tmp_path / "out").exists()


def test_a_pack_without_nets_is_named(work, sizes, tmp_path):
    with pytest.raises(ConsisIDError, match=r"holds no \.onnx files.*--pack"):
        assemble(work, tmp_path / "out", sizes, tmp_path)
