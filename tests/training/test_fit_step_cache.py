"""The fit for a step cache: that the numbers are those of the net's own steps, and what the command says and writes."""

import json

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.checkpoint.nets import transformer_weights
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.checkpoint.step_cache_fit import fit_path, read_fit
from consisid_pack.consisid_core.model.schedule import trailing_timesteps
from consisid_pack.consisid_core.model.transformer import ConsisIDTransformer
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.cases import CaseSet
from consisid_pack.consisid_core.training.fit_step_cache import Measured, fit, main, measure
from consisid_pack.consisid_core.training.sample import Sampling, sample_latents
from consisid_pack.consisid_core.training.validation import image_latents, predictor
from helpers.training import GEOMETRY
from helpers.training_cases import write_random_cases
from helpers.training_runs import NET, write_small_cache, write_small_net

STEPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory, models_dir, pack):
    folder = tmp_path_factory.mktemp("fit")
    write_small_cache(folder / "cache", 2)
    write_random_cases(folder / "cache", NET, GEOMETRY, models_dir / "vae/consisid_demo", pack)
    return folder


@pytest.fixture
def model(tmp_path):
    return write_small_net(tmp_path)


def loaded(model):
    weights = transformer_weights(read_checkpoint(model))
    net = ConsisIDTransformer(weights.config)
    net.load_state_dict(weights.state_dict)
    return net.requires_grad_(False).eval()


def test_changes_are_those_of_the_blocks_from_step_to_step(folder, model):
    net, cases = loaded(model), CaseSet(ClipCache(folder / "cache"))
    measured = measure(net, cases, Sampling(STEPS))
    pairs = 9 + 8 + 7 + 6
    assert len(measured.embedding_changes) == len(measured.output_changes) == 2 * pairs
    times = torch.tensor(trailing_timesteps(STEPS))
    torch.testing.assert_close(measured.embeddings, net.embed_time(times, torch.float32))

    # The first pair by hand: what all blocks together add, from hooks around the first and the last, at whose output no
    # identity enters.
    added, entered = [], []
    net.transformer_blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0].clone()))
    net.transformer_blocks[-1].register_forward_hook(lambda _, args, out: added.append(out - entered[-1]))
    sample_latents(
        predictor(net)(cases[0]), cases[0].text, cases.empty_text, image_latents(cases[0], net.config), Sampling(STEPS)
    )
    first, second = added[::2][:2]  # Those of the prompt; the negative one's follow each.
    change = (second - first).abs().mean() / first.abs().mean()
    assert measured.output_changes[0] == pytest.approx(change.item(), rel=1e-5)
    embeddings = measured.embeddings
    change = (embeddings[1] - embeddings[0]).abs().mean() / embeddings[0].abs().mean()
    assert measured.embedding_changes[0] == pytest.approx(change.item(), rel=1e-5)


def test_a_polynomial_is_found_again():
    x = np.linspace(0.02, 0.4, 40)
    y = 3 * x**2 + 0.5 * x + 0.01
    result, error = fit(Measured(x.tolist(), y.tolist(), torch.zeros(1)))
    assert error < 1e-6 and (result.lowest, result.highest) == (0.02, 0.4)
    for change in (0.02, 0.13, 0.4):
        assert result.output_change(change) == pytest.approx(3 * change**2 + 0.5 * change + 0.01, rel=1e-6)


def test_the_range_begins_where_the_polynomial_is_positive():
    x = np.linspace(0.0, 1.0, 50)
    result, _ = fit(Measured(x.tolist(), (x - 0.105).tolist(), torch.zeros(1)))
    assert 0.1 < result.lowest < 0.13 and 0 < result.output_change(0.05) < result.output_change(0.2)


def test_the_command_writes_what_the_node_reads(folder, model, capsys, tmp_path):
    other = write_small_net(tmp_path / "other")
    arguments = [str(folder / "cache"), str(model), str(other), "--steps", str(STEPS), "--device", "cpu"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"Wrote {fit_path(model)}" in out and f"Wrote {fit_path(other)}" in out
    assert "At threshold 0.15 ConsisID Step Cache skips " in out
    content = json.loads(fit_path(model).read_text(encoding="utf-8"))
    assert content["videos"] == 2 and content["steps"] == STEPS and len(content["coefficients"]) == 5
    measured = measure(loaded(model), CaseSet(ClipCache(folder / "cache")), Sampling(STEPS))
    expected, error = fit(measured)
    result = read_fit(model)
    assert result.coefficients == pytest.approx(expected.coefficients, rel=1e-3)
    assert content["mean_error"] == pytest.approx(error, rel=1e-3)

    before = fit_path(other).read_bytes()
    assert main(arguments) == 1
    assert f"error: {fit_path(model)} exists already. Remove it to fit anew." in capsys.readouterr().err
    assert fit_path(other).read_bytes() == before


@pytest.mark.parametrize("steps", ["9", "1001"])
def test_wrong_steps_are_refused(folder, model, capsys, steps):
    assert main([str(folder / "cache"), str(model), "--steps", steps]) == 1
    assert "--steps must be 10 to 1000" in capsys.readouterr().err


def test_what_does_not_belong_together_is_refused(folder, model, tmp_path, capsys):
    write_small_cache(tmp_path / "cache", 2)
    assert main([str(tmp_path / "cache"), str(model)]) == 1
    assert "python -m consisid_core.training cases CASES.jsonl" in capsys.readouterr().err
    assert main([str(folder / "cache"), str(tmp_path / "none.safetensors")]) == 1
    assert "none.safetensors" in capsys.readouterr().err
    import dataclasses

    wide = write_small_net(tmp_path / "wide", dataclasses.replace(NET, text_embed_dim=32))
    assert main([str(folder / "cache"), str(wide)]) == 1
    assert "width of the text 24 instead of 32" in capsys.readouterr().err
    assert not fit_path(wide).exists()


def test_stopping_leaves_nothing(folder, model, monkeypatch, capsys):
    net, steps = loaded(model), []

    def stops():
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(net, CaseSet(ClipCache(folder / "cache")), Sampling(STEPS), stops)
    assert len(steps) == 3 and not fit_path(model).exists()


def test_quantised_weights_are_told_to_use_the_fit_of_others(folder, model, capsys):
    import safetensors.torch

    tensors = safetensors.torch.load_file(model)
    name = "transformer_blocks.0.ff.net.2.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    tensors[name.replace(".weight", ".scale_weight")] = torch.ones(())
    tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    safetensors.torch.save_file(tensors, model)
    assert main([str(folder / "cache"), str(model)]) == 1
    message = capsys.readouterr().err
    assert f"{model} is quantised" in message and f"copy of their fit here as {fit_path(model)}" in message
