"""Other packs beside ours in one ComfyUI. CONSISID_PACKS names a folder with clones of them; without it all is skipped.

    CONSISID_PACKS=FOLDER python scripts/test.py tests/system/test_other_packs.py

Their requirements have to be installed in the environment that runs the tests.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from helpers import ROOT
from helpers.served import Run, demo, link_released_names
from helpers.templates import input_files
from helpers.weight_forms import write_gguf

FOLDER = os.environ.get("CONSISID_PACKS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="CONSISID_PACKS names no folder of packs")


@pytest.fixture(scope="module")
def run(tmp_path_factory, models_dir):
    models = tmp_path_factory.mktemp("released")
    link_released_names(models_dir, models)
    server = Run(tmp_path_factory.mktemp("server"), models)
    for pack in Path(FOLDER).iterdir():
        (server.base / "custom_nodes" / pack.name).symlink_to(pack)
    with server:
        yield server


@pytest.fixture(scope="module")
def info(run):
    return run.object_info()


def graph_of(name):
    """The template with 2 steps, in the size that the tiny weights were made for."""
    graph = json.loads((ROOT / "tests" / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    demo.find_node(graph, "ConsisIDSampler")["inputs"].update(steps=2)
    demo.find_node(graph, "ConsisIDGlobalIDExtractor")["inputs"].update(width=240, height=160, length=17)
    return graph


@pytest.fixture(scope="module")
def plain(run):
    return run.frames(graph_of("consisid_text_to_video"))[0].astype(int)


def needs(info, node):
    if node not in info:
        pytest.skip(f"no pack with {node} in CONSISID_PACKS, or it does not import")


@pytest.mark.parametrize("node", ["IPAdapterModelLoader", "PulidModelLoader", "VHS_VideoCombine", "UnetLoaderGGUF"])
def test_packs_load_side_by_side(info, plain, node):
    needs(info, node)
    assert "ConsisIDSampler" in info and plain.std() > 5


def test_compile_of_kjnodes_changes_nothing(run, info, plain):
    needs(info, "TorchCompileModelAdvanced")
    graph = graph_of("consisid_text_to_video")
    options = {"fullgraph": False, "mode": "default", "dynamic": "false", "dynamo_cache_size_limit": 64}
    graph["compile"] = {
        "class_type": "TorchCompileModelAdvanced",
        "inputs": {
            "model": ["7", 0], "backend": "inductor", "compile_transformer_blocks_only": True,
            "debug_compile_keys": False, **options,
        },
    }  # fmt: skip
    graph["14"]["inputs"]["model"] = ["compile", 0]
    assert np.abs(run.frames(graph)[0] - plain).max() <= 1


def test_video_helper_suite_loads_and_saves(run, info):
    needs(info, "VHS_LoadVideo")
    graph = graph_of("consisid_video_to_video")
    load = {"force_rate": 8, "custom_width": 240, "custom_height": 160, "frame_load_cap": 17}
    graph["20"] = {
        "class_type": "VHS_LoadVideo",
        "inputs": {"video": "clip.mp4", "skip_first_frames": 0, "select_every_nth": 1, **load},
    }
    for node in ("21", "22", "23"):
        del graph[node]
    graph["24"]["inputs"]["pixels"] = ["20", 0]
    graph["16"]["inputs"]["fps"] = 8.0
    graph["vhs"] = {
        "class_type": "VHS_VideoCombine",
        "inputs": {
            "images": ["15", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "vhs", "format": "video/h264-mp4",
            "pix_fmt": "yuv420p", "crf": 19, "save_metadata": True, "trim_to_audio": False, "pingpong": False,
            "save_output": True,
        },
    }  # fmt: skip
    outputs, _ = run.outputs(graph, input_files())
    (saved,) = outputs["vhs"]["gifs"]
    file = run.base / saved["type"] / saved["subfolder"] / saved["filename"]
    assert demo.describe_video(file).startswith("17 frames of 240 x 160 at 8 fps")


def test_loader_of_the_gguf_pack_refuses_our_transformer(run, info, models_dir):
    """Load ConsisID DiT reads the same file."""
    needs(info, "UnetLoaderGGUF")
    tiny = read_checkpoint(models_dir / "diffusion_models/consisid_demo/transformer")
    folder = run.base / "models" / "diffusion_models" / "gguf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny.config))
    file = folder / "diffusion_pytorch_model.gguf"
    write_gguf(file, tiny.tensors)
    graph = graph_of("consisid_text_to_video")
    graph["7"] = {"class_type": "UnetLoaderGGUF", "inputs": {"unet_name": f"gguf/{file.name}"}}
    with pytest.raises(demo.UserError, match="(?i)arch|not ConsisID"):
        run.frames(graph)
    graph["7"] = {
        "class_type": "ConsisIDModelLoader",
        "inputs": {"model_name": f"gguf/{file.name}", "weight_dtype": "default"},
    }
    assert run.frames(graph)[0].std() > 5
