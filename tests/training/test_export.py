"""What a run has learned as files: read by our loader, diffusers, stock ComfyUI and the next run."""

import json
from dataclasses import asdict, replace
from functools import partial

import comfy.sd
import pytest
import torch
from consisid_pack.consisid_core.checkpoint.nets import transformer_weights
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.comfyui.lora import apply_lora
from consisid_pack.consisid_core.comfyui.transformer import load_transformer
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.config import INJECTION_PLANS
from consisid_pack.consisid_core.training.checkpoint import checkpoints, read_tensors
from consisid_pack.consisid_core.training.export import export_weights, main
from consisid_pack.consisid_core.training.net import build_net
from consisid_pack.consisid_core.training.run import run
from consisid_pack.consisid_core.training.trained import trained_weights
from diffusers import ConsisIDTransformer3DModel
from helpers.oracle import build_ours, relative_error
from helpers.training_runs import NET, small_config, write_small_cache, write_small_net

FULL = {
    "coarse": "steps = 1\nlearning_rate = 1e-2\n[stages.coarse.train]\n'proj_out*' = 1.0",
    "fine": "steps = 2\nlearning_rate = 1e-2\n[stages.fine.train]\n'perceiver_cross_attention.*' = 1.0",
}
LORA = {"coarse": "steps = 0", "fine": "steps = 2\nlearning_rate = 1e-1\n[stages.fine.train]\n'*.lora_*' = 1.0"}
RANK_2 = "[lora]\nrank = 2\nalpha = 3\n"


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Run of whole weights in two stages, with a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("full")
    write_small_cache(folder / "cache")
    write_small_net(folder / "net", NET)
    run(small_config(folder, "[run]\nsave_every = 1\nkeep = 9\n", stages=FULL), folder / "run", "cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    write_small_cache(folder / "cache")
    write_small_net(folder / "net", NET)
    run(small_config(folder, RANK_2, stages=LORA), folder / "run", "cpu")
    return folder / "run"


def predict(net):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    inputs = randn(1, 32, 3, 4, 6), torch.tensor([500.0]), randn(1, 12, 24)
    with torch.inference_mode():
        return net(*inputs, identity_tokens=randn(1, 6, 32))


def test_a_folder_that_our_loader_and_diffusers_read(full, tmp_path):
    path = export_weights(trained_weights(full), tmp_path / "transformer", "fp32")
    assert path == tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    assert sorted(file.name for file in path.parent.iterdir()) == ["README.md", "config.json", path.name]
    reference = ConsisIDTransformer3DModel.from_pretrained(path.parent).eval()
    patcher = load_transformer(path)
    assert patcher.model.config == NET
    assert load_transformer(path.parent).model.config == NET  # As diffusers, which takes the folder.
    ours = patcher.model.diffusion_model
    expected = build_ours(reference)
    assert relative_error(predict(ours), predict(expected)) <= 1e-6
    # The averages of what was trained, and the rest as the run began.
    averages = read_tensors(checkpoints(full)[-1], "ema")
    began = read_checkpoint(full.parent / "net/diffusion_pytorch_model.safetensors").tensors
    weights = ours.state_dict()
    assert averages and all(torch.equal(weights[name], averages.get(name, began[name])) for name in began)


def test_last_weights_and_other_steps_and_formats(full, tmp_path):
    (stepped,) = [checkpoint for checkpoint in checkpoints(full) if checkpoint.name == "000002"]
    weights = trained_weights(full, step=2, averaged=False)
    assert not weights.is_averaged and weights.progress.step == 2
    path = export_weights(weights, tmp_path / "last", "bf16")
    tensors = read_checkpoint(path).tensors
    last = read_tensors(stepped, "net")
    assert all(torch.equal(tensors[name], x.bfloat16()) for name, x in last.items())
    assert {x.dtype for x in tensors.values()} == {torch.bfloat16}
    # A single file says of itself what its shapes do not.
    assert transformer_weights(read_checkpoint(path.rename(tmp_path / "moved.safetensors"))).config == NET


def test_big_weights_are_written_in_shards(full, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "save_torch_state_dict",
        partial(huggingface_hub.save_torch_state_dict, max_shard_size="100KB"),
    )  # fmt: skip
    path = export_weights(trained_weights(full), tmp_path / "shards", "fp32")
    assert path == tmp_path / "shards" and len(list(path.glob("*.safetensors"))) > 1
    assert load_transformer(path).model.config == NET
    ConsisIDTransformer3DModel.from_pretrained(path)


@pytest.mark.parametrize("plan", INJECTION_PLANS)
def test_every_plan_comes_back(plan, tmp_path):
    net = replace(NET, **INJECTION_PLANS[plan])
    write_small_cache(tmp_path / "cache")
    write_small_net(tmp_path / "net", net)
    fine = f"steps = 1\nlearning_rate = 1e-2\nidentity_tokens = {str(net.high_frequency).lower()}"
    stages = {"coarse": "steps = 0", "fine": f"{fine}\n[stages.fine.train]\n'proj_out*' = 1.0"}
    run(small_config(tmp_path, stages=stages), tmp_path / "run", "cpu")
    path = export_weights(trained_weights(tmp_path / "run"), tmp_path / "out")
    assert load_transformer(path).model.config == net
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"plan {plan} of the paper's Table 3" in card
    assert ("would make other videos" in card) == (net.injection != "block_output")


def test_a_coarse_stage_alone_says_that_the_face_modules_are_untrained(tmp_path):
    """A new net after its first stage: its identity tokens would be noise, so they are off until they are trained."""
    write_small_cache(tmp_path / "cache")
    write_small_net(tmp_path / "net")
    config = small_config(tmp_path, "[run]\nsave_every = 1\nkeep = 9\n", stages=FULL)
    config = replace(config, weights=replace(config.weights, transformer=""), net=asdict(NET))
    run(config, tmp_path / "run", "cpu")
    coarse = export_weights(trained_weights(tmp_path / "run", step=1), tmp_path / "coarse", "fp32")
    fine = export_weights(trained_weights(tmp_path / "run", step=3), tmp_path / "fine", "fp32")
    assert [load_transformer(path).model.config.high_frequency for path in (coarse, fine)] == [False, True]
    # Another run goes on from the coarse stage, and has to say that it trains the face modules.
    goes_on = replace(config, weights=replace(config.weights, transformer=str(coarse)), net={})
    with pytest.raises(ConsisIDError, match=r"attends identity tokens. Set high_frequency = true in \[net\]"):
        build_net(goes_on)
    assert build_net(replace(goes_on, net={"high_frequency": True})).config.high_frequency


def test_a_lora_that_stock_loaders_read(lora, tmp_path):
    path = export_weights(trained_weights(lora), tmp_path / "me", "fp32")
    assert path == tmp_path / "me" / "me.safetensors"
    names = read_checkpoint(path).tensors
    assert all(name.startswith("diffusion_model.") for name in names) and any(name.endswith(".alpha") for name in names)
    merged = export_weights(trained_weights(lora), tmp_path / "merged", "fp32", merge=True)
    expected = predict(load_transformer(merged).model.diffusion_model)
    base = load_transformer(lora.parent / "net/diffusion_pytorch_model.safetensors")
    plain = predict(base.model.diffusion_model)
    assert relative_error(expected, plain) > 1e-4
    stock, _ = comfy.sd.load_lora_for_models(base, None, dict(names), 1.0, 0)
    for patched in (stock, apply_lora(base, path, 1.0)):
        patched.patch_model()
        try:
            assert relative_error(predict(patched.model.diffusion_model), expected) <= 1e-5
        finally:
            patched.unpatch_model()


def test_a_lora_that_alone_is_not_what_was_trained(tmp_path):
    stages = {**LORA, "fine": LORA["fine"] + "\n'proj_out*' = 1.0"}
    run(small_config(tmp_path, RANK_2, stages=stages), tmp_path / "run", "cpu")
    weights = trained_weights(tmp_path / "run")
    with pytest.raises(ConsisIDError, match="LoRA alone is not what was trained. Add --merge"):
        export_weights(weights, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    tensors = read_checkpoint(export_weights(weights, tmp_path / "merged", "fp32", merge=True)).tensors
    averages = read_tensors(checkpoints(tmp_path / "run")[-1], "ema")
    assert torch.equal(tensors["proj_out.weight"], averages["proj_out.weight"])


def test_the_model_card_counts_what_it_was_trained_on(full, lora, tmp_path):
    export_weights(trained_weights(full), tmp_path / "transformer")
    card = (tmp_path / "transformer" / "README.md").read_text()
    for words in (
        "| Clips | 6 |", "| People | 3 |", "| Masks | 6 given |", "48x32, 9 frames", "stand-ins among those",
        "their average over training (EMA)", "3 steps (coarse, then fine)", "No validation videos were made",
        "learning_rate = 0.01",
        "must have agreed", 'transformer = "diffusion_pytorch_model.safetensors"', "attended at `block_output`",
    ):  # fmt: skip
        assert words in card, words
    assert str(full.parent) not in card
    export_weights(trained_weights(lora), tmp_path / "me")
    assert "A LoRA of rank 2 for ConsisID" in (tmp_path / "me" / "README.md").read_text()


def test_bad_input(full, tmp_path, capsys):
    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 1
        return capsys.readouterr().err

    assert "holds no training run" in refused(tmp_path, tmp_path / "out")
    assert "holds no checkpoint of step 7; it has those of 1, 2, 3" in refused(full, tmp_path / "out", "--step", "7")
    (tmp_path / "there").mkdir()
    assert "exists already" in refused(full, tmp_path / "there")
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(full, tmp_path / "file" / "out")
    assert main([str(full), str(tmp_path / "good"), "--dtype", "fp16"]) == 0
    assert "the averaged weights of step 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "good" / "config.json").read_text())["cross_attn_interval"] == 2


def test_values_that_do_not_fit_the_format(full, tmp_path):
    weights = trained_weights(full)
    weights.base["norm_final.bias"][0] = 1e6
    with pytest.raises(ConsisIDError, match=r"too large for the format \(norm_final.bias\)"):
        export_weights(weights, tmp_path / "out", "fp16")
    assert not list(tmp_path.iterdir())
