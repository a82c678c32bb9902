"""Every form in which people have the transformer loads to the same weights; damaged ones are refused by name."""

import json
import shutil

import comfy.model_management
import comfy.quant_ops
import folder_paths
import gguf
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelSave
from consisid_pack.consisid_core.checkpoint.quantization import json_tensor
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.comfyui.compat import patched_weight
from consisid_pack.consisid_core.comfyui.model_folders import transformer_names
from consisid_pack.consisid_core.comfyui.transformer import load_facial_extractor
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.config import INJECTION_PLANS
from consisid_pack.consisid_core.types import GlobalID, LocalID
from helpers.oracle import relative_error
from helpers.prediction import predict
from helpers.weight_forms import FORMS, LINEAR, quantised, scaled, write_form, write_gguf, write_pickle_shards
from safetensors.torch import save_file

import nodes

DEMO = "consisid_demo/transformer"
FP8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
SAME = 1e-6
"""Predictions of the same weights: where a mapped tensor lies in memory decides the order of its sums."""


@pytest.fixture(scope="module")
def release(models_dir):
    """State dict and config of the demo transformer, as read from its folder of shards."""
    checkpoint = read_checkpoint(models_dir / "diffusion_models" / DEMO)
    return checkpoint.tensors, checkpoint.config


@pytest.fixture
def place(models_dir, tmp_path):
    """Path of a new file among the transformers, and its name in the loader."""

    def path(file):
        path = models_dir / "diffusion_models" / tmp_path.name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, f"{tmp_path.name}/{file}"

    return path


@pytest.fixture
def load(run_node):
    def run(name, weight_dtype="default"):
        assert name in transformer_names()
        (model,) = run_node("ConsisIDModelLoader", model_name=name, weight_dtype=weight_dtype)
        return model

    return run


def weights_of(patcher):
    return patcher.model.diffusion_model.state_dict()


def assert_same_weights(patcher, expected):
    actual = weights_of(patcher)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, (name, actual[name].dtype)
        assert torch.equal(actual[name].view(torch.uint8), tensor.view(torch.uint8)), name


# ---- names and places ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_to_the_same_weights(form, release, place, load, inputs):  # noqa: F811
    path, name = place(FORMS[form])
    write_form(form, path, *release)
    model = load(name)
    assert_same_weights(model, release[0])
    assert relative_error(predict(model, inputs), predict(load(DEMO), inputs)) <= SAME


@pytest.mark.parametrize("root", ["diffusion_models", "consisid", "extra"])
def test_folders_may_be_links_and_lie_in_every_root(root, release, models_dir, load, tmp_path):
    source = models_dir / "diffusion_models" / DEMO
    roots, _ = folder_paths.folder_names_and_paths["diffusion_models"]
    name = f"linked-{root}/transformer"
    link = (tmp_path if root == "extra" else models_dir / root) / name
    link.parent.mkdir()
    link.symlink_to(source, target_is_directory=True)
    if root == "extra":
        roots.append(str(tmp_path))
    try:
        assert_same_weights(load(name), release[0])
    finally:
        if root == "extra":
            roots.remove(str(tmp_path))
        shutil.rmtree(link.parent)


def test_whole_repository_in_models_consisid(models_dir, node_classes, run_node):
    """Each loader finds its part of a copy of the released repository, and no other's."""
    repository = models_dir / "consisid" / "snapshot"
    demo = "consisid_demo"
    parts = {
        "transformer": models_dir / "diffusion_models" / demo / "transformer",
        "text_encoder": models_dir / "text_encoders" / demo / "text_encoder",
        "vae": models_dir / "vae" / demo,
    }
    for part, source in parts.items():
        shutil.copytree(source, repository / part)
    try:
        for node, widget, name in (
            ("ConsisIDModelLoader", "model_name", "snapshot/transformer"),
            ("ConsisIDVAELoader", "vae_name", "snapshot/vae/diffusion_pytorch_model.safetensors"),
            ("ConsisIDTextEncoderLoader", "text_encoder_name", "snapshot/text_encoder"),
        ):
            (combo,) = [i for i in node_classes[node].define_schema().inputs if i.id == widget]
            assert [option for option in combo.options if option.startswith("snapshot/")] == [name]
            run_node(node, **{widget: name})
    finally:
        shutil.rmtree(repository)


def test_averaged_weights_come_first_and_are_pointed_to(models_dir, release, load, place, caplog):
    path, name = place("transformer")
    averaged, averaged_name = place("transformer_ema")
    for folder in (path, averaged):
        shutil.copytree(models_dir / "diffusion_models" / DEMO, folder)
    names = transformer_names()
    assert names.index(averaged_name) == names.index(name) - 1
    load(averaged_name)
    assert "has averaged weights beside it" not in caplog.text
    load(name)
    assert f"{path} has averaged weights beside it, in transformer_ema" in caplog.text


def test_what_stands_around_the_transformer_is_said(release, place, load, caplog):
    path, name = place("checkpoint.safetensors")
    write_form("prefixed", path, *release)
    with caplog.at_level("INFO", "consisid"):
        load(name)
    assert f"took the {len(release[0])} parameters below 'model.diffusion_model.' and left 2 others" in caplog.text


# ---- what of the identity the weights were trained with --------------------------------------------------------------


@pytest.mark.parametrize("plan", INJECTION_PLANS)
def test_a_plan_of_injection_loads_and_is_saved(plan, release, place, load, save_and_load):
    path, name = place("planned.safetensors")
    tensors, config = release
    keys = {"is_kps" if key == "keypoints" else key: value for key, value in INJECTION_PLANS[plan].items()}
    write_form("safetensors with its config inside", path, tensors, {**config, **keys})
    model = load(name)
    for key, value in INJECTION_PLANS[plan].items():
        assert getattr(model.model.config, key) == value
    assert save_and_load(model).model.config == model.model.config


def test_a_plan_that_is_unknown_here(release, place, load):
    path, name = place("tomorrow.safetensors")
    write_form("safetensors with its config inside", path, release[0], {**release[1], "injection": "everywhere"})
    message = refused(load, name)
    assert str(path) in message and "injection 'everywhere'" in message and "update the pack" in message


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"low_frequency": False}, "trained without the low-frequency half: of GLOBAL_ID only the size"),
        ({"high_frequency": False}, "trained without the high-frequency half: LOCAL_ID is left aside"),
        ({"is_kps": True}, "trained with key points, but GLOBAL_ID has none"),
        ({}, None),
    ],
    ids=str,
)
def test_inference_says_what_it_leaves_aside(config, said, release, place, load, inputs, run_node, caplog):  # noqa: F811
    path, name = place("half.safetensors")
    write_form("safetensors with its config inside", path, release[0], {**release[1], **config})
    model = load(name)
    _, image, text, tokens = inputs
    image[:, :, 1:] = 0

    def video(global_id, local_id):
        positive, negative, latent = run_node(
            "ConsisIDConditioning", positive=[[text, {}]], negative=[[text, {}]], global_id=GlobalID(global_id),
            local_id=local_id and LocalID(local_id[0]),
        )  # fmt: skip
        return run_node(
            "ConsisIDSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=0,
            steps=1,
            cfg=1.0,
        )[0]["samples"]

    whole = video(image, [tokens])
    lines = [record.message for record in caplog.records if "MODEL was trained" in record.message]
    assert len(lines) == (said is not None) and all(said in line for line in lines)
    without_low, without_high = video(torch.zeros_like(image), [tokens]), video(image, None)
    assert torch.equal(whole, without_low) == (not config.get("low_frequency", True))
    assert torch.equal(whole, without_high) == (not config.get("high_frequency", True))


# ---- number formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_files_in_full_and_half_precision(dtype, release, place, load, inputs):  # noqa: F811
    path, name = place("half.safetensors")
    state_dict = {key: tensor.to(dtype) for key, tensor in release[0].items()}
    write_form("safetensors with its config inside", path, state_dict, release[1])
    model = load(name)
    # ComfyUI may compute in a wider type, never in a narrower one.
    loaded = weights_of(model)
    assert all(torch.equal(loaded[key].to(dtype), state_dict[key]) for key in state_dict)
    assert relative_error(predict(model, inputs), predict(load(DEMO), inputs)) <= {4: SAME, 2: 1e-2}[dtype.itemsize]


@pytest.mark.parametrize("weight_dtype", FP8)
def test_plain_fp8_files_equal_a_cast_at_load(weight_dtype, release, place, load, inputs):  # noqa: F811
    path, name = place("fp8.safetensors")
    cast_at_load = load(DEMO, weight_dtype)
    expected = {key: tensor.clone() for key, tensor in weights_of(cast_at_load).items()}
    write_form("safetensors with its config inside", path, expected, release[1])
    for chosen in (weight_dtype, "default"):
        model = load(name, chosen)
        if chosen == weight_dtype:
            assert_same_weights(model, expected)
        assert relative_error(predict(model, inputs), predict(cast_at_load, inputs)) <= SAME


@pytest.mark.parametrize("naming", ["scale_weight", "comfy_quant", "metadata"])
@pytest.mark.parametrize("dtype", FP8.values(), ids=FP8)
def test_scaled_fp8(dtype, naming, release, place, load, inputs):  # noqa: F811
    stored, meant, metadata = scaled(release, dtype, naming)
    path, name = place("scaled.safetensors")
    save_file(stored, path, metadata)
    plain_path, plain_name = place("meant.safetensors")
    write_form("safetensors with its config inside", plain_path, meant, release[1])

    model, plain = load(name), load(plain_name)
    # Eight bits a weight in memory, too.
    layer = model.model.diffusion_model.transformer_blocks[0].attn1.to_q
    assert weights_of(model)["transformer_blocks.0.attn1.to_q.weight"].dtype == dtype, layer
    assert relative_error(predict(model, inputs), predict(plain, inputs)) <= 1e-2
    extractor, _ = load_facial_extractor(model)
    expected, _ = load_facial_extractor(plain)
    for key, tensor in expected.model.state_dict().items():
        assert relative_error(extractor.model.state_dict()[key].float(), tensor.float()) <= 4e-3, key


# Formats that newer versions of ComfyUI know besides scaled fp8, and the settings that suit the tiny set's widths.
FORMATS = {
    "nvfp4": {},
    "mxfp8": {},
    "int8_tensorwise": {},
    "convrot_w4a4": {"convrot_groupsize": 64},
    "asym_w4a8_int8": {"convrot_groupsize": 64},
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_quantisation_that_comfyui_knows(form, release, place, load, inputs):
    stored, meant = quantised(release[0], form, FORMATS[form], "ff.net.2.weight")
    path, name = place(f"{form}.safetensors")
    save_file(stored, path, {"config": json.dumps(release[1])})
    if form not in comfy.quant_ops.QUANT_ALGOS:
        message = refused(load, name)
        assert f"{path} is quantised as {form}, which this ComfyUI does not know. Update ComfyUI" in message
        return
    plain_path, plain_name = place("meant.safetensors")
    save_file(meant, plain_path, {"config": json.dumps(release[1])})
    model, plain = load(name), load(plain_name)
    key = "transformer_blocks.1.ff.net.2.weight"
    assert relative_error(patched_weight(model, f"diffusion_model.{key}"), meant[key]) <= 4e-3  # Meant is in bf16.
    # One format packs the activations into four bits, too.
    bound = 5e-2 if form == "convrot_w4a4" else 1e-2
    assert relative_error(predict(model, inputs), predict(plain, inputs)) <= bound


def test_weight_dtype_of_a_quantised_file_is_left_aside(release, place, load, caplog):
    stored, _, metadata = scaled(release, torch.float8_e4m3fn, "comfy_quant")
    path, name = place("scaled.safetensors")
    save_file(stored, path, metadata)
    load(name, "fp16")
    assert f"{path} is quantised already: weight_dtype fp16 is left aside" in caplog.text


def test_gguf(release, place, load, inputs):  # noqa: F811
    path, name = place("packed.gguf")
    types = {name: gguf.GGMLQuantizationType.Q8_0 for name in release[0] if name.endswith(LINEAR)}
    config = {"config": json.dumps(release[1])}
    # GGUF has no config; the demo's sizes need the one that lies beside.
    path, name = place("diffusion_pytorch_model.gguf")
    path.with_name("config.json").write_text(config["config"])
    write_gguf(path, release[0], types)
    meant = {
        key: torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), types[key]), types[key]))
        if key in types
        else tensor
        for key, tensor in release[0].items()
    }
    plain_path, plain_name = place("meant.safetensors")
    write_form("safetensors with its config inside", plain_path, meant, release[1])
    model = load(name, "bf16")
    assert_same_weights(model, {key: tensor.bfloat16() for key, tensor in meant.items()})
    assert relative_error(predict(model, inputs), predict(load(plain_name, "bf16"), inputs)) <= SAME


# ---- saving --------------------------------------------------------------------------------------------------------


@pytest.fixture
def save_and_load(place, load, tmp_path, monkeypatch):
    """Save a MODEL with ComfyUI's own node and load the file again."""

    def run(model):
        saver = ModelSave()
        saver.output_dir = str(tmp_path)
        saver.save(model, "saved")
        (saved,) = tmp_path.glob("saved*.safetensors")
        path, name = place("saved.safetensors")
        shutil.move(saved, path)
        return load(name)

    return run


@pytest.mark.parametrize("weight_dtype", ["default", "bf16", "fp8_e4m3fn"])
def test_saved_models_load_again(weight_dtype, load, save_and_load, inputs):  # noqa: F811
    model = load(DEMO, weight_dtype)
    expected = predict(model, inputs)
    assert relative_error(predict(save_and_load(model), inputs), expected) <= SAME


def test_saved_models_hold_their_lora(load, save_and_load, release, models_dir, inputs):  # noqa: F811
    (models_dir / "loras").mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(models_dir / "loras"))
    generator = torch.Generator().manual_seed(5)
    module = "transformer_blocks.1.attn1.to_v"
    width = release[0][f"{module}.weight"].shape[0]
    lora = {
        f"diffusion_model.{module}.lora_A.weight": torch.randn(4, width, generator=generator) / width**0.5,
        f"diffusion_model.{module}.lora_B.weight": torch.randn(width, 4, generator=generator) / 2,
    }
    save_file(lora, models_dir / "loras" / "saving.safetensors")
    model = load(DEMO)
    (patched,) = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "saving.safetensors", 1.0)
    expected = predict(patched, inputs)
    assert relative_error(expected, predict(model, inputs)) > 0.01
    comfy.model_management.unload_all_models()
    assert relative_error(predict(save_and_load(patched), inputs), expected) <= 1e-6


def test_saved_quantised_models_load_again(release, place, load, save_and_load, inputs):  # noqa: F811
    stored, _, metadata = scaled(release, torch.float8_e4m3fn, "comfy_quant")
    path, name = place("scaled.safetensors")
    save_file(stored, path, metadata)
    model = load(name)
    expected = predict(model, inputs)
    again = save_and_load(model)
    assert weights_of(again)["transformer_blocks.0.attn1.to_q.weight"].dtype == torch.float8_e4m3fn
    assert relative_error(predict(again, inputs), expected) <= SAME


# ---- damage that every reader would let through ---------------------------------------------------------------------


def refused(load, name):
    with pytest.raises(ConsisIDError) as caught:
        load(name)
    assert caught.value.__cause__ is None and "\n" not in str(caught.value)
    return str(caught.value)


def sample(model):
    """One step of a stock sampler, without an identity."""
    text = torch.randn(1, 226, 64, generator=torch.Generator().manual_seed(0))
    conditioning = [[text, {}]]
    latent = {"samples": torch.zeros(1, 16, 5, 20, 30)}
    return nodes.common_ksampler(model, 0, 1, 1.0, "euler", "simple", conditioning, conditioning, latent)


def test_a_result_that_is_not_finite_though_the_weights_are(release, place, load):
    path, name = place("large.safetensors")
    large = {key: tensor * 1e37 if key == "proj_out.weight" else tensor for key, tensor in release[0].items()}
    save_file(large, path, {"config": json.dumps(release[1])})
    message = refused(sample, load(name))
    assert (
        "The sampled latent holds values that are not finite" in message and f"the weights in {path} do not" in message
    )
    assert "Choose bf16 as weight_dtype" in message


def test_saved_config_that_is_no_text(release, place, load):
    path, name = place("saved.safetensors")
    save_file({**release[0], "consisid_config": torch.tensor([0.5])}, path)
    assert str(path) in refused(load, name)


def test_shards_of_two_checkpoints(release, place, load):
    """Another checkpoint's shards under the index of this one: parameters repeat."""
    path, name = place("mixed")
    path.mkdir()
    write_pickle_shards(path, *release)
    names = sorted(release[0])
    torch.save({key: release[0][key] for key in names[::3]}, path / "diffusion_pytorch_model-00002-of-00002.bin")
    assert "Files of two downloads are mixed" in refused(load, name)


@pytest.mark.parametrize("layers", [["a"], "a", 3])
def test_quantisation_noted_in_another_form(layers, release, place, load):
    path, name = place("noted.safetensors")
    noted = {"_quantization_metadata": json.dumps({"layers": layers})}
    save_file(release[0], path, {"config": json.dumps(release[1]), **noted})
    assert f"The metadata of {path} name no layers" in refused(load, name)


def test_whole_numbers_without_their_scales(release, place, load):
    path, name = place("int8.safetensors")
    key = "transformer_blocks.0.attn1.to_q.weight"
    save_file({**release[0], key: torch.ones_like(release[0][key], dtype=torch.int8)}, path)
    path.with_name("config.json").write_text(json.dumps(release[1]))
    renamed = path.rename(path.with_name("diffusion_pytorch_model.safetensors"))
    message = refused(load, name.replace(path.name, renamed.name))
    assert f"{renamed} holds 1 parameters that are no floating-point numbers ({key} int8)" in message


def test_a_quantisation_of_the_future(release, place, load):
    stored, _, metadata = scaled(release, torch.float8_e4m3fn, "comfy_quant")
    stored |= {key: json_tensor({"format": "int3_of_tomorrow"}) for key in stored if key.endswith(".comfy_quant")}
    path, name = place("future.safetensors")
    save_file(stored, path, metadata)
    message = refused(load, name)
    assert f"{path} is quantised as int3_of_tomorrow, which this ComfyUI does not know. Update ComfyUI" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_values_that_are_not_finite(value, dtype, release, place, load):
    key = "transformer_blocks.1.ff.net.2.weight"
    state_dict = {name: tensor.to(dtype) for name, tensor in release[0].items()}
    broken = release[0][key].clone()
    broken[3, 5] = value
    state_dict[key] = broken.to(dtype)
    path, name = place("nan.safetensors")
    save_file(state_dict, path, {"config": json.dumps(release[1])})
    model = load(name)  # Mapped, so that nothing is read yet.
    message = refused(sample, model)
    assert f"{path} holds values that are not finite" in message and f"in 1 parameters ({key})" in message


def test_finite_extremes_pass(release, place, load):
    key = "transformer_blocks.1.ff.net.2.weight"
    for dtype in (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        state_dict = {name: tensor.to(dtype) for name, tensor in release[0].items()}
        state_dict[key][0, 0], state_dict[key][0, 1] = torch.finfo(dtype).max, torch.finfo(dtype).min
        path, name = place("extreme.safetensors")
        save_file(state_dict, path, {"config": json.dumps(release[1])})
        load(name)
