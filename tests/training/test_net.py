"""The net that a run starts with: read, completed, new; its LoRA, and its number formats."""

import dataclasses
import json
import sys

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.config import Lora, Memory
from consisid_pack.consisid_core.training.net import (
    FACE_MODULES,
    Denoiser,
    Operations,
    add_lora,
    build_net,
    clean_name,
    factor,
    learning_names,
    set_formats,
    trained_names,
)
from helpers.oracle import relative_error
from helpers.training_runs import FACE, NET, SIZES, small_config
from safetensors.torch import load_file, save_file

LORA = Lora(rank=3, alpha=6.0, targets=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("net")


def numbers(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(net=NET):
    face = net.facial_extractor
    return (
        numbers(0, 2, 32, 3, 4, 6), torch.tensor([900, 20]), numbers(1, 2, 12, 24), numbers(2, 2, face.id_dim),
        numbers(3, 2, 5, 10, face.vit_dim), torch.ones(2, face.num_queries), torch.ones(2),
    )  # fmt: skip


def test_a_file_is_read_as_it_is_and_not_written_to(folder):
    config = small_config(folder)
    stored = load_file(config.weights.transformer)
    net = build_net(config)
    assert net.config == NET
    assert all(torch.equal(parameter, stored[name]) for name, parameter in net.named_parameters())
    with torch.no_grad():
        net.proj_out.weight.zero_()
    assert torch.equal(load_file(config.weights.transformer)["proj_out.weight"], stored["proj_out.weight"])


def test_fields_of_net_change_what_the_file_says(folder):
    net = build_net(small_config(folder, net='injection = "before_attention"\nkeypoints = true'))
    assert net.config == dataclasses.replace(NET, injection="before_attention", keypoints=True)


def test_cogvideox_weights_get_new_face_modules(folder, caplog):
    config = small_config(folder, net=FACE)
    plain = {name: x for name, x in load_file(config.weights.transformer).items() if not name.startswith(FACE_MODULES)}
    file = folder / "plain/diffusion_pytorch_model.safetensors"
    file.parent.mkdir()
    save_file(plain, file)
    stated = {"sample_frames": 9, "sample_width": 6, "sample_height": 4, "max_text_seq_length": 12}
    (file.parent / "config.json").write_text(json.dumps(stated))
    config = dataclasses.replace(
        config,
        weights=dataclasses.replace(config.weights, transformer=str(file)),
        net={**config.net, "injection": "between"},
    )
    with caplog.at_level("INFO", logger="consisid"):
        net = build_net(config)
    assert "has no face modules: they start anew" in caplog.text
    assert net.config.injection == "between" and net.config.facial_extractor.output_dim == 32
    state_dict = net.state_dict()
    assert all(torch.equal(state_dict[name], x) for name, x in plain.items())
    new = [x for name, x in state_dict.items() if name.startswith(FACE_MODULES)]
    assert len(new) == len(state_dict) - len(plain) > 50 and all(x.isfinite().all() for x in new)
    assert torch.isfinite(Denoiser(net)(*inputs(net.config))).all()


def test_a_new_net_follows_from_the_seed(folder):
    def new(seed):
        config = small_config(folder, f"[run]\nseed = {seed}\n", net=f"{SIZES}num_heads = 3\nff_dim = 96\n{FACE}")
        return build_net(dataclasses.replace(config, weights=dataclasses.replace(config.weights, transformer="")))

    one, again, other = new(1), new(1), new(2)
    assert one.config.num_layers == 2 and one.config.facial_extractor.vit_dim == 64
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.proj_out.weight, other.proj_out.weight)
    assert all(parameter.isfinite().all() for parameter in one.parameters())
    assert torch.isfinite(Denoiser(one)(*inputs(one.config))).all()


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("injektion = 'between'", r"\[net\] has no key injektion. It may have .*injection"),
        ("injection = 'middle'", "injection 'middle' is none of block_output"),
        ("[net.facial_extractor]\ndeep = 1", r"has no key facial_extractor.deep"),
        ("num_layers = 3", "does not fit: parameters .* missing: transformer_blocks.2"),
    ],
)
def test_a_net_that_cannot_be_is_refused(folder, net, words):
    with pytest.raises(ConsisIDError, match=words):
        build_net(small_config(folder, net=net))


@pytest.mark.parametrize(("layers", "interval", "cure"), [(5, 2, 4), (2, 3, 3)])
def test_a_new_net_of_no_whole_intervals_is_refused(folder, layers, interval, cure):
    sizes = SIZES.replace("num_layers = 2", f"num_layers = {layers}\ncross_attn_interval = {interval}")
    config = small_config(folder, net=f"{sizes}num_heads = 3\nff_dim = 96\n{FACE}")
    with pytest.raises(ConsisIDError, match=rf"no multiple of cross_attn_interval {interval}.* num_layers = {cure}, "):
        build_net(dataclasses.replace(config, weights=dataclasses.replace(config.weights, transformer="")))


def test_other_weights_are_refused(folder):
    config = small_config(folder)
    file = folder / "other.safetensors"
    save_file({"decoder.conv_in.conv.weight": torch.zeros(4)}, file)
    for path, words in (
        (file, "is not a ConsisID transformer: it looks like a CogVideoX VAE|is incomplete"),
        (folder / "no.safetensors", "no.safetensors"),
    ):
        with pytest.raises(ConsisIDError, match=words):
            build_net(dataclasses.replace(config, weights=dataclasses.replace(config.weights, transformer=str(path))))


def test_a_lora_changes_nothing_before_it_is_trained(folder):
    config = small_config(folder)
    plain, net = build_net(config), build_net(dataclasses.replace(config, lora=LORA))
    names = [name for name, _ in net.named_parameters() if ".lora_" in name]
    assert "transformer_blocks.1.attn1.to_out.0.lora_B.default.weight" in names
    assert "perceiver_cross_attention.0.to_q.lora_A.default.weight" in names
    with torch.no_grad():
        assert torch.equal(Denoiser(net)(*inputs()), Denoiser(plain)(*inputs()))
    stage = dataclasses.replace(config.stages["fine"], train={"*.lora_*": 1.0})
    assert learning_names(net, stage) == names


def test_targets_that_no_layer_has_are_named(folder):
    with pytest.raises(ConsisIDError, match=r"ends in one of lora.targets \(to_x\)"):
        add_lora(build_net(small_config(folder)), Lora(rank=1, alpha=1.0, targets=["to_x"]))


def test_the_first_pattern_that_fits_counts():
    patterns = {"a.b.*": 0.0, "a.*": 10.0, "*": 0.1}
    assert [factor(name, patterns) for name in ("a.b.c", "a.c", "d")] == [0, 10, 0.1]
    assert factor("d", {"a.*": 1.0}) == 0


def test_face_modules_learn_only_where_they_are_used(folder):
    config = small_config(folder)
    net = build_net(config)
    fine = config.stages["fine"]
    coarse = dataclasses.replace(fine, identity_tokens=False)
    assert len(learning_names(net, fine)) == len(list(net.parameters()))
    assert not any(name.startswith(FACE_MODULES) for name in learning_names(net, coarse))
    assert trained_names(net, {"coarse": coarse, "fine": fine}) == [name for name, _ in net.named_parameters()]
    unused = {"fine": dataclasses.replace(fine, steps=0), "coarse": coarse}
    assert trained_names(net, unused) == learning_names(net, coarse)
    nothing = dataclasses.replace(coarse, train={"perceiver*": 1.0})
    with pytest.raises(ConsisIDError, match="Stage coarse trains nothing: no parameter that it uses fits"):
        trained_names(net, {"coarse": nothing})


@pytest.mark.parametrize("frozen", ["bfloat16", "float8"])
def test_frozen_weights_are_narrow_and_a_lora_learns_on_them(folder, frozen):
    config = dataclasses.replace(small_config(folder), lora=LORA)
    exact, net = build_net(config), build_net(config)
    learning = {name for name, _ in net.named_parameters() if ".lora_" in name}
    memory = Memory("mixed", frozen, checkpointing=False, sharding="ddp", compile=False)
    set_formats(net, "", learning, learning, memory)
    narrow = torch.float8_e4m3fn if frozen == "float8" else torch.bfloat16
    modules = dict(net.named_modules())
    for name, parameter in net.named_parameters():
        is_matrix = isinstance(modules[name.rpartition(".")[0]], Operations.Linear) and name.endswith(".weight")
        expected = torch.float32 if name in learning else narrow if is_matrix else torch.bfloat16
        assert parameter.dtype == expected and parameter.requires_grad == (name in learning), name

    with torch.autocast("cpu", torch.bfloat16):
        predicted = Denoiser(net)(*inputs())
    with torch.no_grad():
        assert relative_error(predicted.float(), Denoiser(exact)(*inputs())) < (0.1 if frozen == "float8" else 0.02)
    predicted.float().square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters() if name in learning}
    assert all(gradient.abs().sum() > 0 for name, gradient in gradients.items() if ".lora_B." in name)


def test_names_are_those_of_the_file_whatever_is_wrapped_around():
    name = "module.transformer.transformer_blocks.0._checkpoint_wrapped_module.ff.net.2.weight"
    assert clean_name(name) == "transformer_blocks.0.ff.net.2.weight"
    assert clean_name("patch_embed.proj.bias") == "patch_embed.proj.bias"


def test_a_missing_peft_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConsisIDError, match="Training a LoRA needs peft.*pip install peft"):
        add_lora(build_net(small_config(folder)), LORA)
