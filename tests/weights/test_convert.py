"""`python -m consisid_core.weights convert`: what it writes loads as the original; a failure leaves nothing behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.weights.convert import UNCAST
from helpers import ROOT
from helpers.processes import SECONDS, wait_until
from helpers.weights_command import call, contents, run, small_disk, start
from safetensors import safe_open
from safetensors.torch import load_file, save_file

TORCH_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
T5_MARK = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"


@pytest.fixture(scope="module")
def transformer(models_dir):
    return models_dir / "diffusion_models/consisid_demo/transformer"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """600 MB of weights that pass for a T5 encoder."""
    file = tmp_path_factory.mktemp("large") / "t5.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {f"encoder.{i}.weight": torch.randn(5000, 5000, generator=generator) for i in range(5)}
    save_file({T5_MARK: torch.randn(10_000, 2500, generator=generator), **tensors}, file)
    yield file
    file.unlink()


def loaded(run_node, name, weight_dtype="default"):
    (patcher,) = run_node("ConsisIDModelLoader", model_name=name, weight_dtype=weight_dtype)
    return patcher.model.diffusion_model.state_dict()


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name].float(), tensor.float()), name


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_converted_loads_as_the_original_with_that_weight_dtype(transformer, models_dir, run_node, dtype):
    target = models_dir / f"diffusion_models/converted/{dtype}.safetensors"
    code, out, err = call("convert", transformer, target, "--dtype", dtype)
    assert code == 0 and f"wrote {target}: 299 parameters" in out, err
    weight_dtype = "default" if dtype == "fp32" else dtype
    original = loaded(run_node, "consisid_demo/transformer", weight_dtype)
    assert_same(loaded(run_node, f"converted/{dtype}.safetensors", weight_dtype), original)
    # As it comes, without a choice in the loader, it holds the same numbers in the device's favourite format.
    for name, tensor in loaded(run_node, f"converted/{dtype}.safetensors").items():
        assert torch.equal(tensor.float(), original[name].float()), name

    with safe_open(target, "pt") as file:
        config = json.loads(file.metadata()["config"])
        assert file.metadata()["format"] == "pt" and config["_class_name"] == "ConsisIDTransformer3DModel"
        formats = {name: file.get_tensor(name).dtype for name in file.keys()}
    tables = {name: torch.bfloat16 for name in UNCAST if dtype.startswith("fp8")}
    assert formats == {**dict.fromkeys(original, TORCH_DTYPES[dtype]), **tables}
    assert list(target.parent.glob("*.part")) == []


def test_every_form_gives_the_same_file(transformer, tmp_path):
    """A single .bin beside its config.json, a larger checkpoint with its config inside, a model that ComfyUI saved."""
    assert call("convert", transformer, tmp_path / "expected.safetensors", "--dtype", "bf16")[0] == 0
    expected = load_file(tmp_path / "expected.safetensors")
    checkpoint = read_checkpoint(transformer)
    state_dict, config = checkpoint.tensors, checkpoint.config
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in state_dict.items()}
    other = {"first_stage_model.decoder.conv_in.weight": torch.ones(3)}
    saved_config = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)

    (tmp_path / "config.json").write_text(json.dumps(config))
    # Not in memory order, as a transposed parameter is saved.
    views = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in state_dict.items()}
    torch.save({**views, "step": 7}, tmp_path / "diffusion_pytorch_model.bin")
    save_file({**prefixed, **other}, tmp_path / "larger.safetensors", {"config": json.dumps(config)})
    save_file({**prefixed, "model.diffusion_model.consisid_config": saved_config}, tmp_path / "saved.safetensors")
    torch.save({**state_dict, "consisid_config": saved_config}, tmp_path / "saved.pth")
    for name in ("diffusion_pytorch_model.bin", "larger.safetensors", "saved.safetensors", "saved.pth"):
        target = tmp_path / "out" / f"{name}.safetensors"
        code, _, err = call("convert", tmp_path / name, target, "--dtype", "bf16")
        assert code == 0, err
        assert_same(load_file(target), expected)

    save_file(state_dict, tmp_path / "bare.safetensors")  # Nothing says what size its position table is for.
    code, _, err = call("convert", tmp_path / "bare.safetensors", tmp_path / "out/bare.safetensors", "--dtype", "bf16")
    assert code == 1 and "position table of" in err and not (tmp_path / "out/bare.safetensors").exists()


def test_vae_and_text_encoder_convert_too(models_dir, run_node, tmp_path):
    vae = models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors"
    target = models_dir / "vae/converted.safetensors"
    assert call("convert", vae, target, "--dtype", "fp32")[0] == 0
    assert_same(load_file(target), load_file(vae))
    (loaded_vae,) = run_node("ConsisIDVAELoader", vae_name="converted.safetensors")
    assert loaded_vae.latent_channels == 16
    code, _, err = call("convert", vae, tmp_path / "vae8.safetensors", "--dtype", "fp8_e4m3fn")
    assert code == 1 and "VAE, which does not run in fp8" in err

    target = models_dir / "text_encoders/converted.safetensors"
    assert call("convert", models_dir / "text_encoders/consisid_demo/text_encoder", target, "--dtype", "bf16")[0] == 0
    names = ("consisid_demo/text_encoder", "converted.safetensors")
    clips = [run_node("ConsisIDTextEncoderLoader", text_encoder_name=name)[0] for name in names]
    original, converted = (clip.encode_from_tokens(clip.tokenize("a person smiles")) for clip in clips)
    assert (original - converted).abs().max() < 0.03 * original.abs().max()


def test_memory_stays_bounded(large, tmp_path):
    script = (
        "import sys; from consisid_core.weights.__main__ import main; code = main(sys.argv[1:]); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]); sys.exit(code)"
    )

    # The tests' own settings (scripts/test.py) let a process keep more memory than a user's does.
    users = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def peak(source, target):
        command = [sys.executable, "-c", script, "convert", source, target, "--dtype", "fp8_e4m3fn"]
        done = subprocess.run(command, cwd=ROOT, env=users, capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1]) * 1024

    save_file({T5_MARK: torch.ones(8, 8)}, tmp_path / "small.safetensors")
    base = peak(tmp_path / "small.safetensors", tmp_path / "base.safetensors")
    growth = peak(large, tmp_path / "large8.safetensors") - base
    print(f"peak grows by {growth / 1e6:.0f} MB for a source of 600 MB")
    assert growth < 200e6 and base < 1e9
    source, written = load_file(large), load_file(tmp_path / "large8.safetensors")
    for name, tensor in source.items():
        assert torch.equal(written[name].view(torch.uint8), tensor.to(torch.float8_e4m3fn).view(torch.uint8)), name


def test_an_existing_target_is_refused(transformer, tmp_path):
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"mine")
    code, _, err = call("convert", transformer, target, "--dtype", "bf16")
    assert code == 1 and "exists already" in err and contents(tmp_path) == {"mine.safetensors": b"mine"}
    code, _, err = call("convert", transformer, tmp_path / "a.bin", "--dtype", "bf16")
    assert code == 1 and "must end in .safetensors" in err


def test_a_damaged_source_is_named(transformer, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(transformer, source)
    shard = source / "diffusion_pytorch_model-00002-of-00002.safetensors"
    os.truncate(shard, 100_000)
    code, _, err = call("convert", source, tmp_path / "a.safetensors", "--dtype", "bf16")
    assert code == 1 and f"{shard} is truncated: it holds 100,000 of 3,872,304 bytes" in err
    shard.unlink()
    code, _, err = call("convert", source, tmp_path / "a.safetensors", "--dtype", "bf16")
    assert code == 1 and "is incomplete" in err and shard.name in err
    code, _, err = call("convert", tmp_path / "absent.safetensors", tmp_path / "a.safetensors", "--dtype", "bf16")
    assert code == 1 and "absent.safetensors does not exist" in err
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    code, _, err = call("convert", tmp_path / "other.safetensors", tmp_path / "a.safetensors", "--dtype", "bf16")
    assert code == 1 and "is no transformer, VAE or T5" in err
    assert not (tmp_path / "a.safetensors").exists() and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "value, dtype, sentence",
    [
        (float("nan"), "bf16", "holds NaN or infinity: the source is damaged"),
        (float("-inf"), "fp8_e5m2", "holds NaN or infinity: the source is damaged"),
        (-7e4, "fp16", "holds 70000, which does not fit fp16. Choose bf16"),
        (500.0, "fp8_e4m3fn", "holds 500, which does not fit fp8_e4m3fn"),
        (1e5, "fp8_e5m2", "holds 100000, which does not fit fp8_e5m2"),
    ],
)
def test_values_that_do_not_fit_are_named(tmp_path, value, dtype, sentence):
    weight = torch.ones(3, 3)
    weight[1, 1] = value
    save_file({T5_MARK: torch.ones(2, 2), "shared.weight": weight}, tmp_path / "t5.safetensors")
    code, _, err = call("convert", tmp_path / "t5.safetensors", tmp_path / "a.safetensors", "--dtype", dtype)
    assert code == 1 and f"error: shared.weight {sentence}" in err
    assert set(contents(tmp_path)) == {"t5.safetensors"}


def interrupted(large, target, number):
    process = start("convert", large, target, "--dtype", "fp8_e4m3fn")
    partial = target.with_name(f"{target.name}.part")
    wait_until(lambda: partial.exists() and partial.stat().st_size > 10_000_000, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    return process.returncode, err


def test_ctrl_c_leaves_nothing(large, tmp_path):
    code, err = interrupted(large, tmp_path / "a.safetensors", signal.SIGINT)
    assert code == 130 and "Traceback" not in err and err.endswith("\nStopped.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_conversion_leaves_no_target_and_can_be_repeated(large, tmp_path):
    target = tmp_path / "a.safetensors"
    code, _ = interrupted(large, target, signal.SIGKILL)
    assert code == -signal.SIGKILL and not target.exists()
    assert run("convert", large, target, "--dtype", "fp8_e4m3fn")[0] == 0
    assert load_file(target)[T5_MARK].shape == (10_000, 2500) and [target] == list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(large, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))

    target = tmp_path / "a.safetensors"
    code, _, err = run("convert", large, target, "--dtype", "bf16", preexec_fn=limit)
    assert code == 1 and f"error: {target} cannot be written: the disk is full." in err
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_named_beforehand(large, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        code, _, err = run("convert", large, disk / "a.safetensors", "--dtype", "bf16")
        assert code == 1 and "will take 300.0 MB, but its disk has 16." in err and list(disk.iterdir()) == []
