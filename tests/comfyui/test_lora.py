"""LoRA files in every format against diffusers' transformer with the same differences added to its weights by hand."""

import copy
import json
import logging
import re
from types import SimpleNamespace

import comfy.model_management
import comfy.model_patcher
import folder_paths
import peft
import pytest
import torch
from consisid_pack.consisid_core.comfyui.transformer import load_facial_extractor, load_transformer
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.oracle import build_reference, reference_rotary, relative_error
from safetensors.torch import save_file

import nodes as comfyui_nodes

RELATIVE = 1e-5
RANK = 4

# One of each kind of layer: attention, feed-forward, modulation, patches (a convolution), and both face modules.
MODULES = [
    "patch_embed.proj",
    "patch_embed.text_proj",
    "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.1.attn1.to_k",
    "transformer_blocks.2.attn1.to_v",
    "transformer_blocks.3.attn1.to_out.0",
    "transformer_blocks.1.ff.net.0.proj",
    "transformer_blocks.2.ff.net.2",
    "transformer_blocks.0.norm1.linear",
    "perceiver_cross_attention.0.to_q",
    "perceiver_cross_attention.1.to_kv",
    "perceiver_cross_attention.1.to_out",
    "local_facial_extractor.layers.0.0.to_q",
    "local_facial_extractor.layers.1.0.to_kv",
    "local_facial_extractor.layers.2.1.1",
    "local_facial_extractor.mapping_0.0",
    "proj_out",
]

# Name -> (key of the down matrix, of the up matrix), of a module with dots (m) or underscores (u).
FORMATS = {
    "diffusers": ("transformer.{m}.lora_A.weight", "transformer.{m}.lora_B.weight"),
    "diffusers, old": ("transformer.{m}.lora.down.weight", "transformer.{m}.lora.up.weight"),
    "diffusers, no prefix": ("{m}.lora_A.weight", "{m}.lora_B.weight"),
    "PEFT": ("base_model.model.{m}.lora_A.weight", "base_model.model.{m}.lora_B.weight"),
    "PEFT, adapter named": ("base_model.model.{m}.lora_A.default.weight", "base_model.model.{m}.lora_B.default.weight"),
    "kohya": ("lora_unet_{u}.lora_down.weight", "lora_unet_{u}.lora_up.weight"),
    "VideoX-Fun": ("lora_unet__{u}.lora_down.weight", "lora_unet__{u}.lora_up.weight"),
    "LyCORIS": ("lycoris_{u}.lora_down.weight", "lycoris_{u}.lora_up.weight"),
    "SimpleTuner": (
        "transformer.base_model.model.{m}.lora.down.weight",
        "transformer.base_model.model.{m}.lora.up.weight",
    ),
    "PEFT, compiled, adapter named by the user": (
        "base_model.model._orig_mod.{m}.lora_A.my style.weight",
        "base_model.model._orig_mod.{m}.lora_B.my style.weight",
    ),
    "OneTrainer": ("lora_transformer_{u}.lora_down.weight", "lora_transformer_{u}.lora_up.weight"),
    "original": ("diffusion_model.{m}.lora_A.weight", "diffusion_model.{m}.lora_B.weight"),
    "original, kohya's matrices": ("diffusion_model.{m}.lora_down.weight", "diffusion_model.{m}.lora_up.weight"),
}
SERVED_BY_STOCK_NODES = ["kohya", "original", "original, kohya's matrices"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of LoRAs that ComfyUI knows."""
    path = tmp_path_factory.mktemp("loras")
    folder_paths.add_model_folder_path("loras", str(path))
    return path


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    path = tmp_path_factory.mktemp("transformer")
    reference = build_reference(num_attention_heads=3, attention_head_dim=16, num_layers=4)
    reference.save_pretrained(path)
    generator = torch.Generator().manual_seed(6)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    file = path / "diffusion_pytorch_model.safetensors"
    matrices = {}
    for module in MODULES:
        out_features, *in_shape = reference.get_submodule(module).weight.shape
        # As large as the weights themselves.
        down = randn(RANK, *in_shape) / in_shape[0] ** 0.5
        matrices[module] = (down, randn(out_features, RANK, *[1] * (len(in_shape) - 1)))
    return SimpleNamespace(
        reference=reference, file=file, model=load_transformer(file), matrices=matrices,
        latents=randn(1, 3, 8, 8, 8), text=randn(1, 11, 16), timestep=torch.tensor([500.0]), id_cond=randn(1, 20),
        hidden=[randn(1, 9, 16) for _ in range(5)],
    )  # fmt: skip


@pytest.fixture
def expected(setup):
    """The reference's output with differences added to its weights."""

    @torch.inference_mode()
    def forward(differences):
        reference = setup.reference
        original = {name: reference.get_parameter(name).clone() for name in differences}
        try:
            for name, difference in differences.items():
                reference.get_parameter(name).add_(difference)
            tokens = reference.local_facial_extractor(setup.id_cond, setup.hidden)
            output = reference(
                setup.latents, setup.text, setup.timestep, id_cond=setup.id_cond, id_vit_hidden=setup.hidden,
                image_rotary_emb=reference_rotary(reference.config, setup.latents.shape[1]),
            ).sample  # fmt: skip
        finally:
            for name, value in original.items():
                reference.get_parameter(name).copy_(value)
        return output, tokens

    return forward


@pytest.fixture
def actual(setup):
    """The output of a MODEL and its identity tokens, each through ComfyUI's loading of patched weights."""

    @torch.inference_mode()
    def forward(model):
        extractor, dtype = load_facial_extractor(model)
        comfy.model_management.load_models_gpu([extractor])
        tokens = extractor.model(setup.id_cond.to(dtype), [hidden.to(dtype) for hidden in setup.hidden])
        comfy.model_management.load_models_gpu([model])
        net = model.model.diffusion_model
        latents = setup.latents.transpose(1, 2)
        output = net(latents.to(dtype), setup.timestep, setup.text.to(dtype), identity_tokens=tokens)
        return output.transpose(1, 2).float().clone(), tokens.float().clone()

    return forward


def merged(matrices, scale=1.0):
    """Module -> (down, up) as weight -> difference; scale: one for all, or a function of the module."""
    return {
        f"{module}.weight": (scale(module) if callable(scale) else scale)
        * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        for module, (down, up) in matrices.items()
    }


def tensors_of(matrices, style="diffusers"):
    keys = FORMATS[style]
    tensors = {}
    for module, pair in matrices.items():
        for key, matrix in zip(keys, pair, strict=True):
            tensors[key.format(m=module, u=module.replace(".", "_"))] = matrix
    return tensors


@pytest.fixture
def load(setup, folder, run_node):
    """Save tensors, load them with the node on the model (or another); returns the patched model."""

    def run(tensors, strength=1.0, name="lora.safetensors", metadata=None, model=None):
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(tensors, folder / name, metadata)
        return run_node("ConsisIDLoraLoader", model=model or setup.model, lora_name=name, strength=strength)[0]

    return run


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert relative_error(a, b) <= RELATIVE


# ---- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_equals_the_merged_reference(style, setup, load, actual, expected, caplog):
    result = actual(load(tensors_of(setup.matrices, style)))
    assert_equal(result, expected(merged(setup.matrices)))
    assert relative_error(result[0], expected({})[0]) > 0.1, "the LoRA must matter for this test to mean anything"
    assert relative_error(result[1], expected({})[1]) > 0.1
    same = actual(load(tensors_of(setup.matrices)))
    assert all(torch.equal(a, b) for a, b in zip(result, same, strict=True))
    assert not [record for record in caplog.records if "fits in part" in record.message]


@pytest.mark.parametrize("module", MODULES)
def test_every_kind_of_module_takes_part(module, setup, load, actual, expected):
    matrices = {module: setup.matrices[module]}
    result = actual(load(tensors_of(matrices)))
    assert_equal(result, expected(merged(matrices)))
    assert relative_error(result[0], expected({})[0]) > 1e-3


def test_pickled_file(setup, folder, run_node, actual, expected):
    torch.save(tensors_of(setup.matrices), folder / "pytorch_lora_weights.bin")
    (model,) = run_node("ConsisIDLoraLoader", model=setup.model, lora_name="pytorch_lora_weights.bin")
    assert_equal(actual(model), expected(merged(setup.matrices)))


def upstream_matrices(setup):
    """The modules that the official training adapts: `target_modules` of its LoraConfig, matched at the name's end."""
    generator = torch.Generator().manual_seed(7)
    matrices = {}
    for name, layer in setup.reference.named_modules():
        if re.fullmatch(r"(.*\.)?(to_k|to_q|to_v|to_out\.0)", name):
            down = torch.randn(RANK, layer.in_features, generator=generator) / layer.in_features**0.5
            matrices[name] = (down, 0.5 * torch.randn(layer.out_features, RANK, generator=generator))
    return matrices


@pytest.mark.parametrize("alpha_over_rank", [1.0, 0.5])
def test_training_format_of_the_official_code(alpha_over_rank, setup, load, actual, expected, caplog):
    """Keys `transformer.…`, no alpha anywhere: what is not alpha = rank has to be given as strength."""
    matrices = upstream_matrices(setup)
    kinds = {name.split(".")[0] for name in matrices}
    assert kinds == {"transformer_blocks", "perceiver_cross_attention", "local_facial_extractor"}
    name, metadata = "checkpoint-epoch-9/pytorch_lora_weights.safetensors", {"format": "pt"}
    model = load(tensors_of(matrices), alpha_over_rank, name, metadata)
    assert_equal(actual(model), expected(merged(matrices, alpha_over_rank)))
    assert not caplog.records


# ---- scale ---------------------------------------------------------------------------------------------------------

LORA_CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "use_rslora": False, "alpha_pattern": {}}
SCALES = {
    "alpha": ({}, 1.5),
    "rank-stabilised": ({"use_rslora": True}, 3.0),
    "of some modules": (
        {"alpha_pattern": {"to_q": 2, "^transformer_blocks.1.attn1.to_k": 10, "to": 999}},
        lambda module: {"to_q": 0.5, "to_k": 2.5}.get(module.split(".")[-1], 1.5),
    ),
}


@pytest.mark.parametrize(("config", "scale"), SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("place", ["diffusers' pipeline", "diffusers' model", "finetrainers", "PEFT"])
def test_stored_lora_config(place, config, scale, setup, folder, load, actual, expected, caplog):
    config = {**LORA_CONFIG, **config}
    if place == "PEFT":
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter/adapter_config.json").write_text(json.dumps(config))
        model = load(tensors_of(setup.matrices, "PEFT"), name="adapter/adapter_model.safetensors")
    elif place == "finetrainers":
        model = load(tensors_of(setup.matrices), metadata={"lora_config": json.dumps(config)})
    else:
        pipeline = place == "diffusers' pipeline"
        prefix, style = ("transformer.", "diffusers") if pipeline else ("", "diffusers, no prefix")
        stored = json.dumps({prefix + key: value for key, value in config.items()})
        model = load(tensors_of(setup.matrices, style), metadata={"lora_adapter_metadata": stored})
    assert_equal(actual(model), expected(merged(setup.matrices, scale)))
    assert not caplog.records


@pytest.mark.parametrize("style", ["kohya", "diffusers", "VideoX-Fun"])
def test_alpha_tensors_come_before_metadata(style, setup, load, actual, expected):
    tensors = tensors_of(setup.matrices, style)
    for key in list(tensors):
        tensors[re.sub(r"\.lora_(A|B|up|down)\.weight", ".alpha", key)] = torch.tensor(3.0)
    model = load(tensors, metadata={"lora_adapter_metadata": json.dumps(LORA_CONFIG)})
    assert_equal(actual(model), expected(merged(setup.matrices, 0.75)))


def test_peft_file_away_from_its_config(setup, folder, load, actual, expected, caplog):
    """Beside another name the config may belong to another LoRA: it is not taken, and the log says so."""
    (folder / "renamed").mkdir()
    (folder / "renamed/adapter_config.json").write_text(json.dumps(LORA_CONFIG))
    model = load(tensors_of(setup.matrices, "PEFT"), name="renamed/style.safetensors")
    assert_equal(actual(model), expected(merged(setup.matrices)))
    (record,) = caplog.records
    assert f"{folder / 'renamed/style.safetensors'} is a PEFT adapter without its adapter_config.json" in record.message


# ---- strength and chains -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [-0.7, 0.3, 2.0])
def test_strength(strength, setup, load, actual, expected):
    model = load(tensors_of(setup.matrices), strength)
    assert_equal(actual(model), expected(merged(setup.matrices, strength)))


def test_strength_zero_and_the_model_that_came_in(setup, load, actual):
    base = actual(setup.model)
    weights = {name: weight.clone() for name, weight in setup.model.model.state_dict().items()}
    patched = actual(load(tensors_of(setup.matrices)))
    assert relative_error(patched[0], base[0]) > 0.1
    # "set" would replace the weight at any strength.
    replacement = {"transformer.transformer_blocks.0.attn1.to_q.set_weight": torch.zeros(48, 48)}
    without = load({**tensors_of(setup.matrices), **replacement}, 0.0)
    for model in (without, setup.model):
        assert not model.patches
        assert all(torch.equal(a, b) for a, b in zip(actual(model), base, strict=True))
    comfy.model_management.unload_all_models()
    for name, weight in setup.model.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_applied_twice(setup, load, actual, expected):
    tensors = tensors_of(setup.matrices)
    once = load(tensors, 0.5)
    twice = load(tensors, 0.25, model=once)
    assert_equal(actual(twice), expected(merged(setup.matrices, 0.75)))
    assert_equal(actual(once), expected(merged(setup.matrices, 0.5)))


@pytest.mark.parametrize("style", SERVED_BY_STOCK_NODES)
def test_chain_with_the_stock_loader(style, setup, folder, load, actual, expected):
    """Stock loaders serve ComfyUI's and kohya's names, and may stand on either side of ours."""
    save_file(tensors_of(setup.matrices, style), folder / "stock.safetensors")

    def stock(model, strength):
        return comfyui_nodes.LoraLoaderModelOnly().load_lora_model_only(model, "stock.safetensors", strength)[0]

    result = expected(merged(setup.matrices, 0.8))
    assert_equal(actual(stock(setup.model, 0.8)), result)
    assert_equal(actual(load(tensors_of(setup.matrices), 0.3, model=stock(setup.model, 0.5))), result)
    assert_equal(actual(stock(load(tensors_of(setup.matrices), 0.3), 0.5)), result)


# ---- fp8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_on_fp8_weights(weight_dtype, setup, load, actual, expected):
    """Patched weights are rounded to fp8 once more, which costs no more than fp8 without a LoRA. Tokens are not."""
    base = load_transformer(setup.file, weight_dtype)
    net = base.model.diffusion_model
    rounding = {
        name: net.get_parameter(name).float() - weight.detach() for name, weight in setup.reference.named_parameters()
    }
    differences = merged(setup.matrices, 0.3)
    wanted = expected({name: error + differences.get(name, 0) for name, error in rounding.items()})
    plain, exact = actual(base), expected({})
    result = actual(load(tensors_of(setup.matrices), 0.3, model=base))
    assert relative_error(result[0], wanted[0]) <= relative_error(plain[0], exact[0]) <= 0.25
    assert relative_error(result[1], wanted[1]) <= RELATIVE
    assert relative_error(wanted[0], plain[0]) > 0.5


# ---- DoRA ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dora(setup):
    """A DoRA that PEFT made: its tensors, its config, and what it adds to the reference's weights."""
    config = peft.LoraConfig(r=RANK, lora_alpha=6, use_dora=True, target_modules=MODULES)
    net = peft.inject_adapter_in_model(config, copy.deepcopy(setup.reference))
    generator = torch.Generator().manual_seed(9)
    for name, (down, up) in setup.matrices.items():
        layer = net.get_submodule(name)
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = down, up
        magnitude = layer.lora_magnitude_vector["default"].weight.data
        magnitude *= 0.5 + torch.rand(magnitude.shape, generator=generator)
    tensors = {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(net).items()}
    assert sum("magnitude" in name for name in tensors) == len(MODULES)
    differences = {}
    for name in MODULES:
        layer = net.get_submodule(name)
        layer.merge()
        differences[f"{name}.weight"] = layer.base_layer.weight.data - setup.reference.get_submodule(name).weight.data
    return SimpleNamespace(tensors=tensors, config={**LORA_CONFIG, "use_dora": True}, differences=differences)


def kohya_dora(dora, magnitude=lambda magnitude, ndim: magnitude.reshape(-1, *[1] * (ndim - 1))):
    """The same as kohya and LyCORIS write it."""
    tensors = {}
    for name, tensor in dora.tensors.items():
        module, kind = name.split(".lora_")
        module = f"lora_unet_{module.replace('.', '_')}"
        if kind == "magnitude_vector":
            ndim = dora.tensors[name.replace("magnitude_vector", "A.weight")].ndim
            tensors |= {f"{module}.dora_scale": magnitude(tensor, ndim), f"{module}.alpha": torch.tensor(6.0)}
        else:
            tensors[f"{module}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = tensor
    return tensors


@pytest.mark.parametrize("style", ["diffusers", "adapter named", "kohya", "kohya, flat"])
def test_dora_equals_peft(style, setup, dora, load, actual, expected, caplog):
    stored = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in dora.config.items()})}
    tensors = {f"transformer.{name}": tensor for name, tensor in dora.tensors.items()}
    if style == "adapter named":
        tensors = {
            re.sub("(vector|_A|_B)", r"\1.default", name) + (".weight" if "vector" in name else ""): tensor
            for name, tensor in tensors.items()
        }
    elif style != "diffusers":
        stored = None
        tensors = kohya_dora(dora, *([lambda magnitude, ndim: magnitude.flatten()] if style == "kohya, flat" else []))
    result = actual(load(tensors, metadata=stored))
    wanted = expected(dora.differences)
    assert_equal(result, wanted)
    without = {
        name: tensor for name, tensor in tensors.items() if not name.endswith(("dora_scale", "vector", "t.weight"))
    }
    assert relative_error(wanted[0], expected({})[0]) > 0.1 and len(without) < len(tensors)
    assert not caplog.records


def test_dora_of_peft_as_a_folder_and_at_half_strength(dora, folder, load, actual, expected):
    (folder / "dora").mkdir()
    (folder / "dora/adapter_config.json").write_text(json.dumps(dora.config))
    tensors = {f"base_model.model.{name}": tensor for name, tensor in dora.tensors.items()}
    model = load(tensors, 0.5, "dora/adapter_model.safetensors")
    assert_equal(actual(model), expected({name: 0.5 * value for name, value in dora.differences.items()}))


def test_dora_on_fp8_weights(setup, dora, load, actual, expected):
    """The magnitudes act on the weights as they are in fp8, and the result is rounded to fp8 once more."""
    base = load_transformer(setup.file, "fp8_e4m3fn")
    net = base.model.diffusion_model
    plain, exact = actual(base), expected({})
    weights = {name: net.get_parameter(name).float() for name, _ in setup.reference.named_parameters()}
    for name, lora in merged(setup.matrices, 1.5).items():
        changed = weights[name] + lora
        magnitude = dora.tensors[name.replace("weight", "lora_magnitude_vector")]
        length = changed.flatten(1).norm(dim=1)
        weights[name] = changed * (magnitude.flatten() / length).reshape(-1, *[1] * (changed.ndim - 1))
    wanted = expected({name: value - setup.reference.get_parameter(name).detach() for name, value in weights.items()})
    result = actual(load(kohya_dora(dora), model=base))
    assert relative_error(result[0], wanted[0]) <= relative_error(plain[0], exact[0]) <= 0.25
    assert relative_error(result[1], wanted[1]) <= RELATIVE
    assert relative_error(wanted[0], plain[0]) > 0.5


def test_broken_doras_are_named(dora, refused):
    module = "transformer_blocks.1.attn1.to_k"
    magnitude = dora.tensors[f"{module}.lora_magnitude_vector"]
    tensors = {name: tensor for name, tensor in dora.tensors.items() if not name.startswith(f"{module}.")}
    refused(
        {**tensors, f"{module}.lora_magnitude_vector": magnitude},
        f"is a DoRA that has a magnitude of {module} without the matrices",
    )
    refused(
        {**dora.tensors, f"{module}.lora_magnitude_vector": magnitude[:40]},
        f"has tensors that do not fit: {module} is 48x48 here",
        "and 40",
    )
    without = {name: tensor for name, tensor in dora.tensors.items() if "magnitude" not in name}
    stored = {"lora_adapter_metadata": json.dumps(dora.config)}
    refused(
        without, "is a DoRA by its stored config, and its lora_magnitude_vector tensors are missing", metadata=stored
    )


# ---- what ComfyUI's own adapters take ------------------------------------------------------------------------------


def test_other_adapters_go_through_comfyui(setup, load, actual, expected):
    name = "transformer_blocks.1.attn1.to_q"
    shape = setup.reference.get_submodule(name).weight.shape
    generator = torch.Generator().manual_seed(8)

    def randn(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    key = f"transformer.{name}"
    w1a, w1b, w2a, w2b = randn(48, 4), randn(4, 48), randn(48, 4), randn(4, 48)
    loha = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b, "alpha": torch.tensor(8.0)}
    w1, w2, full, bias = randn(6, 6), randn(8, 8), randn(*shape), randn(48)
    for tensors, differences in (
        (loha, {"weight": 2 * (w1a @ w1b) * (w2a @ w2b)}),
        ({"lokr_w1": w1, "lokr_w2": w2}, {"weight": torch.kron(w1, w2)}),
        ({"diff": full, "diff_b": bias}, {"weight": full, "bias": bias}),
    ):
        model = load({f"{key}.{suffix}": tensor for suffix, tensor in tensors.items()})
        assert_equal(actual(model), expected({f"{name}.{kind}": value for kind, value in differences.items()}))


def test_oft_and_dora_are_not_mistaken_for_misfits(setup, load, actual, expected):
    name = "transformer.transformer_blocks.1.attn1.to_q"
    down, up = setup.matrices["transformer_blocks.0.attn1.to_q"]
    dora = {"lora_A.weight": down, "lora_B.weight": up, "dora_scale": torch.rand(48, 1)}
    oft = {"oft_blocks": 0.3 * torch.randn(6, 8, 8), "alpha": torch.tensor(0.5)}
    for tensors in (dora, oft):
        model = load({f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()})
        assert relative_error(actual(model)[0], expected({})[0]) > 1e-3


# ---- what does not fit ---------------------------------------------------------------------------------------------


def test_partial_fit_is_a_warning_with_counts(setup, load, actual, expected, caplog):
    strangers = {f"transformer.transformer_blocks.{i}.attn2.to_q.lora_A.weight": torch.zeros(4, 48) for i in range(9)}
    strangers["text_encoder.layers.0.q_proj.lora_A.weight"] = torch.zeros(4, 48)
    # A module that fits, in a part that ComfyUI does not know.
    strangers["transformer.proj_out.lora_B.bias"] = torch.ones(setup.matrices["proj_out"][1].shape[0])
    tensors = {**tensors_of(setup.matrices), **strangers}
    model = load(tensors)
    (record,) = [record for record in caplog.records if record.name == "consisid"]
    assert record.levelno == logging.WARNING
    counts = f"{len(MODULES)} weights are patched, and 11 of its {len(tensors)} tensors fit nothing"
    assert counts in record.getMessage()
    assert "fit nothing in ConsisID (1 of a text encoder, which is not patched here) and are" in record.getMessage()
    names = record.getMessage().split("left out: ")[1].split(", ")
    assert len(names) == 11 and names[-1] == "…" and set(names[:-1]) < set(strangers)
    assert_equal(actual(model), expected(merged(setup.matrices)))


@pytest.fixture
def refused(folder, load):
    def check(tensors, *words, **options):
        with pytest.raises(ConsisIDError) as error:
            load(tensors, **options)
        for word in (str(folder / options.get("name", "lora.safetensors")), *words):
            assert word in str(error.value)

    return check


def pair(module, down="lora_A", up="lora_B"):
    return {f"{module}.{down}.weight": torch.zeros(4, 48), f"{module}.{up}.weight": torch.zeros(48, 4)}


STRANGERS = {
    "a Wan LoRA": [
        pair("diffusion_model.blocks.0.self_attn.q"),
        pair("lora_unet_blocks_3_cross_attn_k", "lora_down", "lora_up"),
    ],
    "a Flux or HunyuanVideo LoRA": [
        pair("transformer.single_transformer_blocks.0.attn.to_q"),
        pair("lora_unet_double_blocks_0_img_attn_proj", "lora_down", "lora_up"),
    ],
    "a Stable Diffusion LoRA": [
        pair("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
        pair("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", "lora_down", "lora_up"),
        pair("lora_unet_input_blocks_1_1_proj_in", "lora_down", "lora_up"),
    ],
    "a text encoder's LoRA": [pair("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_down", "lora_up")],
    "a CogVideoX LoRA of the original SAT code": [
        {"model.diffusion_model.transformer.layers.0.attention.dense.matrix_A.0": torch.zeros(4, 48)}
    ],
    "a LoRA of another model (first names: x.lora_A.weight, x.lora_B.weight)": [pair("x")],
    "a T5 text encoder": [{"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)}],
    "weights of another kind (first names: a)": [{"a": torch.zeros(1)}],
}


@pytest.mark.parametrize(
    ("description", "tensors"),
    [(description, tensors) for description in STRANGERS for tensors in STRANGERS[description]],
)
def test_nothing_fits(description, tensors, refused):
    refused(tensors, f"fits nothing in the ConsisID transformer: it looks like {description}", "Choose a LoRA made for")


def test_another_model(load):
    net = torch.nn.Linear(2, 2)
    other = comfy.model_patcher.ModelPatcher(net, torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ConsisIDError, match="MODEL is a Linear, not ConsisID"):
        load(pair("transformer.x"), model=other)


def test_transformer_chosen_as_lora(setup, refused):
    weights = {name: tensor.contiguous() for name, tensor in setup.reference.state_dict().items()}
    refused(weights, "fits nothing in the ConsisID transformer: it looks like a ConsisID transformer")


def test_half_a_lora(refused):
    name = "transformer.transformer_blocks.0.attn1.to_q"
    refused({f"{name}.lora_B.weight": torch.zeros(48, 4)}, f"is incomplete: parameter {name}.lora_A.weight is missing")
    refused({f"{name}.lora_A.weight": torch.zeros(4, 48)}, "fits nothing in the ConsisID transformer")


MISFITS = {
    "other width": {"lora_A.weight": (4, 40), "lora_B.weight": (40, 4)},
    "same number of values": {"lora_A.weight": (4, 24), "lora_B.weight": (96, 4)},
    "two ranks": {"lora_A.weight": (4, 48), "lora_B.weight": (48, 8)},
    "full difference": {"diff": (48,)},
    "replacement": {"set_weight": (1, 48)},
    "bias": {"diff_b": (40,)},
    "LoHa": {"hada_w1_a": (40, 4), "hada_w1_b": (4, 40), "hada_w2_a": (40, 4), "hada_w2_b": (4, 40)},
    "LoHa, two ranks": {"hada_w1_a": (48, 4), "hada_w1_b": (8, 48), "hada_w2_a": (48, 4), "hada_w2_b": (4, 48)},
    "LoKr": {"lokr_w1": (5, 5), "lokr_w2": (8, 8)},
    "DoRA": {"lora_A.weight": (4, 48), "lora_B.weight": (48, 4), "dora_scale": (40, 1)},
    "OFT": {"oft_blocks": (5, 8, 8)},
}


@pytest.mark.parametrize("shapes", MISFITS.values(), ids=MISFITS.keys())
def test_other_sizes(shapes, setup, refused, actual):
    """One misfit among many that fit: nothing is applied, instead of all but one."""
    module = "transformer_blocks.1.attn1.to_q"
    tensors = {f"transformer.{module}.{suffix}": torch.ones(shape) for suffix, shape in shapes.items()}
    here = "48" if "diff_b" in shapes else "48x48"
    size = "x".join(map(str, next(iter(shapes.values()))))
    refused(
        {**tensors_of(setup.matrices), **tensors}, f"has tensors that do not fit: {module}", f" is {here} here", size
    )
    assert not setup.model.patches


def test_convolution_of_other_sizes(refused):
    tensors = {"proj.lora_A.weight": torch.ones(4, 16, 2, 2), "proj.lora_B.weight": torch.ones(48, 4, 1, 1)}
    tensors = {f"transformer.patch_embed.{key}": tensor for key, tensor in tensors.items()}
    refused(tensors, "patch_embed.proj.weight is 48x8x2x2 here, and those for it are 48x4x1x1 and 4x16x2x2")


# ---- damage --------------------------------------------------------------------------------------------------------


def test_damaged_files(setup, folder, run_node, refused):
    tensors = tensors_of(setup.matrices)
    save_file(tensors, folder / "cut.safetensors")
    content = (folder / "cut.safetensors").read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        (folder / "cut.safetensors").write_bytes(content[:size])
        with pytest.raises(ConsisIDError, match=r"cut\.safetensors cannot be read as a weight file"):
            run_node("ConsisIDLoraLoader", model=setup.model, lora_name="cut.safetensors")
    with pytest.raises(ConsisIDError, match=r"gone\.safetensors is not in .* choose another"):
        run_node("ConsisIDLoraLoader", model=setup.model, lora_name="gone.safetensors")
    key = next(iter(tensors))
    refused({**tensors, key: torch.full_like(tensors[key], torch.nan)}, "not finite numbers", key)
    refused({**tensors, key.replace("lora_A.weight", "alpha"): torch.ones(2)}, "does not fit")


def test_damaged_config(setup, folder, run_node, refused):
    tensors = tensors_of(setup.matrices)
    for stored, word in (
        ("{", "cannot be read as JSON"),
        ("[]", "is not a JSON object"),
        ('{"lora_alpha": "16"}', "has a stored lora_alpha of '16', which is no number"),
        ('{"r": 4}', "has a stored lora_alpha of None"),
        ('{"lora_alpha": NaN}', "has a stored lora_alpha of nan"),
        ('{"peft_type": "LOHA", "alpha": 4}', "is a PEFT adapter of type LOHA"),
        ('{"lora_alpha": 4, "alpha_pattern": {"(": 3}}', "does not fit"),
    ):
        refused(tensors, word, metadata={"lora_adapter_metadata": stored})
    (folder / "damaged").mkdir()
    (folder / "damaged/adapter_config.json").write_bytes(b"\xff\xfe")
    save_file(tensors_of(setup.matrices, "PEFT"), folder / "damaged/adapter_model.safetensors")
    with pytest.raises(ConsisIDError, match=r"damaged/adapter_config\.json cannot be read"):
        run_node("ConsisIDLoraLoader", model=setup.model, lora_name="damaged/adapter_model.safetensors")
