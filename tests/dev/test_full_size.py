"""What the writer of full-size weights writes, and the transformer at that size: memory while loading, and a prediction
against diffusers'.

The latter is opt-in, because it takes 12.4 GB of disk, 20 GB of memory and a quarter of an hour on two cores:

    CONSISID_FULL_SIZE=/some/folder python scripts/test.py tests/dev/test_full_size.py -s

The weights are written into that folder unless they are there. Each measurement is a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT

FOLDER = os.environ.get("CONSISID_FULL_SIZE")
BYTES = 12.43e9
GRID = 3, 8, 8  # Latent frames, rows and columns of the prediction.
# Relative to the prediction's norm. bf16 rounds to 2^-9 at each of some 700 operations in a row, fp8 weights to 2^-5.
BOUNDS = {"bf16": 3e-2, "fp8_e4m3fn": 0.2}

opt_in = pytest.mark.skipif(not FOLDER, reason="CONSISID_FULL_SIZE names no folder for 12.4 GB of random weights")


def inputs():
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    # Latents with their image half, text, a face's embedding and its five hidden states.
    return randn(1, 32, *GRID), randn(1, 226, 4096), randn(1, 1280), [randn(1, 577, 1024) for _ in range(5)]


@torch.inference_mode()
def predict_with_pack(folder, weight_dtype, output):
    """Load through ComfyUI, extract the face's tokens, predict once."""
    import resource

    import conftest  # noqa: F401
    from consisid_pack.consisid_core.comfyui.transformer import load_facial_extractor, load_transformer

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, start = peak(), time.perf_counter()
    patcher = load_transformer(folder, weight_dtype)
    load_peak, load_seconds = peak() - before, time.perf_counter() - start
    latents, text, id_cond, hidden = inputs()
    extractor, _ = load_facial_extractor(patcher)
    tokens = extractor.model.bfloat16()(id_cond.bfloat16(), [state.bfloat16() for state in hidden])
    velocity = patcher.model.diffusion_model(
        latents.bfloat16(), torch.tensor([400.0]), text.bfloat16(), identity_tokens=tokens
    )
    torch.save(
        {"velocity": velocity.float(), "load_peak": load_peak, "load_seconds": load_seconds, "peak": peak() - before},
        output,
    )


@torch.inference_mode()
def predict_with_diffusers(folder, output):
    """The same prediction by diffusers, with the position table resampled for this small grid, as it cannot itself."""
    from diffusers import ConsisIDTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.consisid.pipeline_consisid import get_resize_crop_region_for_grid
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    frames, rows, columns = GRID[0], GRID[1] // 2, GRID[2] // 2
    state_dict = {}
    for shard in sorted(folder.glob("*.safetensors")):
        state_dict |= load_file(shard)
    text, image = state_dict["patch_embed.pos_embedding"].split([226, 13 * 30 * 45], dim=1)
    volume = image.float().unflatten(1, (13, 30, 45)).movedim(-1, 1)
    volume = torch.nn.functional.interpolate(volume, (frames, rows, columns), mode="trilinear", align_corners=True)
    image = volume.flatten(2).transpose(1, 2).to(text.dtype)
    state_dict["patch_embed.pos_embedding"] = torch.cat((text, image), dim=1)

    size = {"sample_frames": frames * 4 - 3, "sample_height": GRID[1], "sample_width": GRID[2]}
    with torch.device("meta"):
        net = ConsisIDTransformer3DModel.from_config({**config, **size})
    net.load_state_dict(state_dict, assign=True)
    crop = get_resize_crop_region_for_grid((rows, columns), 45, 30)
    rotary = get_3d_rotary_pos_embed(config["attention_head_dim"], crop, (rows, columns), frames)
    latents, text, id_cond, hidden = inputs()
    velocity = net(
        latents.transpose(1, 2).bfloat16(), text.bfloat16(), torch.tensor([400.0]), image_rotary_emb=rotary,
        id_cond=id_cond.bfloat16(), id_vit_hidden=[state.bfloat16() for state in hidden], return_dict=False,
    )[0]  # fmt: skip
    torch.save({"velocity": velocity.transpose(1, 2).float()}, output)


def run_step(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run([sys.executable, __file__, *map(str, arguments)], env=environment, check=True)


@pytest.fixture(scope="module")
def folder():
    folder = Path(FOLDER).resolve()
    if not (folder / "config.json").is_file():
        subprocess.run([sys.executable, "-m", "consisid_core.dev.full_size", folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "velocity.pt"
    run_step("diffusers", folder, output)
    return torch.load(output)["velocity"]


@opt_in
@pytest.mark.parametrize("weight_dtype", BOUNDS)
def test_load_and_predict(weight_dtype, folder, expected, tmp_path):
    output = tmp_path / "velocity.pt"
    run_step("pack", folder, output, weight_dtype)
    result = torch.load(output)
    error = ((result["velocity"] - expected).norm() / expected.norm()).item()
    print(
        f"\n{weight_dtype}: host peak while loading {result['load_peak'] / 1e9:.2f} GB "
        f"({result['load_peak'] / BYTES:.2f} x the file) in {result['load_seconds']:.0f} s, "
        f"with a prediction {result['peak'] / 1e9:.2f} GB, error {error:.1e}"
    )
    assert 0 < error <= BOUNDS[weight_dtype]
    # The mapped file counts, too; a cast to fp8 adds half of it.
    assert result["load_peak"] <= {"bf16": 1.15, "fp8_e4m3fn": 1.65}[weight_dtype] * BYTES


def test_shards_are_complete_and_of_the_size_asked_for(tmp_path):
    from consisid_pack.consisid_core.checkpoint.files import DEMO_MARKER, checkpoint_files
    from consisid_pack.consisid_core.checkpoint.net_config import infer_transformer_config
    from consisid_pack.consisid_core.dev.full_size import write_full_size
    from consisid_pack.consisid_core.dev.tiny import TRANSFORMER
    from safetensors import safe_open

    write_full_size(tmp_path / "transformer", TRANSFORMER, shard_bytes=400_000)
    files, config = checkpoint_files(tmp_path / "transformer")
    tensors = {}
    for file in files:
        with safe_open(file, "pt") as shard:
            part = {name: shard.get_tensor(name) for name in shard.keys()}
            assert DEMO_MARKER in shard.metadata() and not set(part) & set(tensors)
        assert sum(tensor.nbytes for tensor in part.values()) <= 400_000 or len(part) == 1
        tensors |= part
    assert len(files) > 2 and {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert infer_transformer_config({name: tensor.shape for name, tensor in tensors.items()}, config) == TRANSFORMER
    index = json.loads((tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


if __name__ == "__main__":
    step, folder, output, *weight_dtype = sys.argv[1:]
    if step == "pack":
        predict_with_pack(Path(folder), *weight_dtype, output)
    else:
        predict_with_diffusers(Path(folder), output)
