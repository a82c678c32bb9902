"""`python -m consisid_core.weights list` and `download`, against a hub on this machine and the faults of a network."""

import os
import re
import resource
import shutil
import signal

import pytest
from consisid_pack.consisid_core.weights.hub import BLOCK
from helpers.hub import Hub
from helpers.processes import SECONDS, wait_until
from helpers.weights_command import call, contents, environment, installed, run, small_disk, start, tiny_release

REPOSITORY = "BestWishYsh/ConsisID-preview"
SHARD = "diffusion_pytorch_model-00001-of-00002.safetensors"
SIZE = 25_000_000  # of `large_hub`'s shard.
PLACES = {
    "transformer": "diffusion_models/ConsisID-preview/transformer",
    "vae": "vae/ConsisID-preview/vae",
    "text_encoder": "text_encoders/ConsisID-preview/text_encoder",
    "face_parsing": "consisid/ConsisID-preview/face_encoder/parsing_bisenet.pth",
    "eva_clip": "consisid/ConsisID-preview/face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt",
    "face_detector": "insightface/models/antelopev2/scrfd_10g_bnkps.onnx",
    "face_recogniser": "insightface/models/antelopev2/glintr100.onnx",
}


@pytest.fixture(scope="module")
def release(models_dir, tmp_path_factory):
    return tiny_release(models_dir, tmp_path_factory.mktemp("release"))


@pytest.fixture
def comfyui(tmp_path):
    root = tmp_path / "ComfyUI"
    (root / "models").mkdir(parents=True)
    (root / "main.py").touch()
    return root


@pytest.fixture
def hub(release):
    return Hub(REPOSITORY, release)


@pytest.fixture
def large_hub(tmp_path):
    """A transformer of 25 MB, whose contents do not matter."""
    folder = tmp_path / "large"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / SHARD).write_bytes(os.urandom(SIZE))
    (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {}}')
    (folder / "transformer/config.json").write_text("{}")
    return Hub(REPOSITORY, folder)


@pytest.fixture
def tmpfs(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


OPTIONAL = {
    "evaluation_detector": "insightface/models/buffalo_l/det_10g.onnx",
    "evaluation_recogniser": "insightface/models/buffalo_l/w600k_r50.onnx",
    "curricular_face": "consisid/ConsisID-preview/face_encoder/glint360k_curricular_face_r101_backbone.bin",
}


def states(out, parts=PLACES):
    found = dict(re.findall(r"^(\w+) +(present|incomplete|missing \(optional\)|missing|replaced) ", out, flags=re.M))
    return {part: state for part, state in found.items() if part in parts}


# list


def test_list_of_an_empty_comfyui(comfyui):
    code, out, _ = run("list", comfyui)
    assert code == 0 and states(out) == dict.fromkeys(PLACES, "missing")
    assert "Still to fetch: about 23.5 GB." in out
    for place in PLACES.values():
        assert f"models/{place}" in out
    assert "non-commercial research" in out and "Apache-2.0" in out and "MIT" in out


def test_list_of_a_complete_comfyui_and_no_command_means_list(comfyui, release):
    installed(release, comfyui)
    code, out, _ = run(env=environment(COMFYUI_PATH=str(comfyui)))
    assert code == 0 and states(out) == dict.fromkeys(PLACES, "present")
    assert "Nothing to fetch." in out


def test_what_measures_videos_is_fetched_only_where_it_is_named(comfyui, hub, release):
    models = installed(release, comfyui)
    _, out, _ = run("list", comfyui)
    assert states(out, OPTIONAL) == dict.fromkeys(OPTIONAL, "missing (optional)") and "Nothing to fetch." in out
    with hub.serve() as endpoint:
        code, out, _ = run("download", comfyui, env=environment(endpoint))
        assert code == 0 and not any((models / place).exists() for place in OPTIONAL.values())
        named = [word for part in OPTIONAL for word in ("--part", part)]
        code, out, err = run("download", comfyui, "--yes", *named, env=environment(endpoint))
        assert code == 0, err
        assert "non-commercial research" in out
    _, out, _ = run("list", comfyui)
    assert states(out, OPTIONAL) == dict.fromkeys(OPTIONAL, "present")
    code, out, _ = call("check", comfyui, *named)
    assert code == 0 and all(f"{part}: ok" in out for part in OPTIONAL)
    (models / OPTIONAL["curricular_face"]).write_bytes((release / "face_encoder/parsing_bisenet.pth").read_bytes())
    code, out, _ = call("check", comfyui, "--part", "curricular_face")
    assert code == 1 and "is not a CurricularFace recogniser" in out and "BiSeNet" in out


def test_list_names_what_is_incomplete(comfyui, release):
    models = installed(release, comfyui)
    shard = models / PLACES["transformer"] / SHARD
    os.truncate(shard, 1000)
    (models / PLACES["text_encoder"] / "model-00002-of-00002.safetensors").unlink()
    os.truncate(models / PLACES["eva_clip"], 5000)
    os.truncate(models / PLACES["face_detector"], 0)
    (models / PLACES["vae"] / "config.json.part").write_bytes(b"{")
    code, out, _ = run("list", comfyui)
    broken = {"transformer", "text_encoder", "eva_clip", "face_detector", "vae"}
    assert code == 0
    assert states(out) == {part: "incomplete" if part in broken else "present" for part in PLACES}
    assert f"transformer: {shard} is" in out and "model-00002-of-00002.safetensors" in out
    assert "config.json.part is unfinished at 1 bytes" in out


def test_list_takes_a_models_folder_and_refuses_others(comfyui, release, tmp_path):
    models = installed(release, comfyui)
    _, out, _ = run("list", models)
    assert states(out) == dict.fromkeys(PLACES, "present")
    code, _, err = run("list", tmp_path)
    assert code == 1 and "neither a ComfyUI folder" in err
    code, _, err = run("list", tmp_path / "absent")
    assert code == 1 and "is not a folder" in err
    code, _, err = run("list")
    assert code == 1 and "COMFYUI_PATH" in err


def test_list_honours_extra_model_paths(comfyui, release, tmp_path):
    """As ComfyUI reads it: old names, several lines, is_default, relative base_path."""
    other = tmp_path / "other"
    installed(release, other)
    for part in ("transformer", "text_encoder", "vae"):  # The others stay missing in ComfyUI's own folder.
        source = other / "models" / PLACES[part]
        target = tmp_path / "shared" / "x" / PLACES[part].partition("/")[2]
        shutil.copytree(source, target, dirs_exist_ok=True)
    (comfyui / "extra_model_paths.yaml").write_text(
        "mine:\n  base_path: ../shared\n  unet: |\n    nowhere\n    x\n  clip: x\n  vae: x\n  checkpoints: x\n"
        "big:\n  base_path: ../disk\n  is_default: true\n  insightface: faces\n"
    )
    _, out, _ = run("list", comfyui)
    assert {part for part, state in states(out).items() if state == "present"} == {"transformer", "text_encoder", "vae"}
    assert str(tmp_path / "disk/faces/models/antelopev2/glintr100.onnx") in out
    (comfyui / "extra_model_paths.yaml").write_text("mine: [")
    code, _, err = run("list", comfyui)
    assert code == 1 and "extra_model_paths.yaml cannot be read" in err


def write_t5_xxl_header(file, vocabulary=32128, scaled=False):
    """A file of full-size T5 names and shapes, without values: it takes no room on disk."""
    import json
    import struct

    shapes = {"shared.weight": [vocabulary, 4096], "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": [10240, 4096]}
    if scaled:
        shapes["scaled_fp8"] = [0]
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * (shape[0] * shape[1] if len(shape) == 2 else 0)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + offset)


def test_a_text_encoder_that_is_there_replaces_the_download(comfyui, hub):
    folder = comfyui / "models/clip"
    write_t5_xxl_header(folder / "umt5_xxl_fp16.safetensors", vocabulary=256384)
    assert states(run("list", comfyui)[1])["text_encoder"] == "missing"
    write_t5_xxl_header(folder / "t5xxl_fp8_scaled.safetensors", scaled=True)
    assert states(run("list", comfyui)[1])["text_encoder"] == "replaced"
    write_t5_xxl_header(folder / "t5xxl_fp16.safetensors")
    _, out, _ = run("list", comfyui)
    assert states(out)["text_encoder"] == "replaced"
    assert f"text_encoder: {folder / 't5xxl_fp16.safetensors'} serves as well" in out
    assert "Still to fetch: about 14.0 GB." in out
    with hub.serve() as endpoint:
        code, out, _ = run("download", comfyui, "--yes", env=environment(endpoint))
        assert code == 0 and "Skipped; --part text_encoder fetches it all the same." in out
        assert not (comfyui / "models" / PLACES["text_encoder"]).exists()
        code, _, _ = run("download", comfyui, "--yes", "--part", "text_encoder", env=environment(endpoint))
        assert code == 0 and (comfyui / "models" / PLACES["text_encoder"]).is_dir()


# download


def test_download_of_everything_then_check(comfyui, hub, release, tmp_path):
    hub_token = "hf_secretsecretsecret"
    with hub.serve() as endpoint:
        code, out, _ = run("download", comfyui, answer="y\n", env=environment(endpoint, HF_TOKEN=hub_token))
        assert code == 0, out
        assert "non-commercial research" in out and "All files are in place." in out
        assert contents(comfyui / "models") == contents(installed(release, tmp_path / "by_hand"))
        sent = hub.requests.copy()
        assert any(token for *_, token in sent), "the token did not reach the hub"
        assert not any(token for _, path, _, token in sent if not path.endswith(".json")), "the token left the hub"

        code, out, _ = run("--check", comfyui, "--hash", env=environment(endpoint))
        assert code == 0 and out.count(": ok, ") == len(PLACES) and out.count("as at the hub") == len(PLACES)

        hub.requests.clear()
        code, out, _ = run("download", comfyui, env=environment(endpoint))  # Nothing to fetch: nothing to ask.
        assert code == 0 and out.count("kept ") == 14 and not hub.requests


def test_nothing_is_fetched_without_consent(comfyui, hub):
    with hub.serve() as endpoint:
        for answer in ("n\n", ""):
            code, out, _ = run("download", comfyui, answer=answer, env=environment(endpoint))
            assert code == 1 and "Nothing was fetched." in out
    assert not contents(comfyui / "models") and not hub.requests


def test_averaged_weights_are_preferred(comfyui, hub, release, tmp_path):
    hub.folder = tmp_path / "with_ema"
    shutil.copytree(release, hub.folder)
    shutil.copytree(release / "transformer", hub.folder / "transformer_ema")
    (hub.folder / "transformer_ema/config.json").write_text('{"averaged": 1}')
    with hub.serve() as endpoint:
        code, out, _ = run("download", comfyui, "--yes", "--part", "transformer", env=environment(endpoint))
    assert code == 0 and "transformer_ema, which is taken instead of transformer" in out
    assert contents(comfyui / "models" / PLACES["transformer"]) == contents(hub.folder / "transformer_ema")


def test_a_cut_connection_is_resumed_within_the_run(comfyui, large_hub):
    large_hub.cut_at = BLOCK + 300_000
    with large_hub.serve() as endpoint:
        code, out, err = run("download", comfyui, "--yes", "--part", "transformer", env=environment(endpoint))
    assert code == 0, err
    assert large_hub.starts(f"transformer/{SHARD}") == [0, BLOCK, BLOCK, 2 * BLOCK]
    assert contents(comfyui / "models" / PLACES["transformer"]) == contents(large_hub.folder / "transformer")


def test_a_download_that_failed_is_resumed_by_the_next_run(comfyui, large_hub):
    target = comfyui / "models" / PLACES["transformer"] / SHARD
    partial = target.with_name(f"{SHARD}.part")
    with large_hub.serve() as endpoint:
        command = ("download", comfyui, "--yes", "--part", "transformer")
        large_hub.cut_at, large_hub.file_status_after_cut = BLOCK + 300_000, 503
        code, out, err = run(*command, hurried=True, env=environment(endpoint))
        assert code == 1
        assert re.search(r"error: The model hub answered with an error at .* \(503\)\..*goes on where it stopped", err)
        assert partial.stat().st_size == BLOCK and not target.exists()
        _, listed, _ = run("list", comfyui)
        assert states(listed)["transformer"] == "incomplete" and f"{SHARD}.part is unfinished at 10.5 MB" in listed

        large_hub.file_status = None
        large_hub.requests.clear()
        code, out, _ = run(*command, env=environment(endpoint))
        assert code == 0 and "In all 14.5 MB." in out
        assert large_hub.starts(f"transformer/{SHARD}") == [BLOCK, 2 * BLOCK]
        assert contents(target.parent) == contents(large_hub.folder / "transformer")


@pytest.mark.parametrize("path", ["transformer/config.json", f"transformer/{SHARD}"])
def test_a_wrong_checksum_is_named_and_leaves_nothing(comfyui, hub, path):
    folder = comfyui / "models" / PLACES["transformer"]
    with hub.serve() as endpoint:
        hub.corrupt = path
        command = ("download", comfyui, "--yes", "--part", "transformer")
        code, out, _ = run(*command, env=environment(endpoint))
        assert code == 1 and f"DAMAGED  {path} arrived damaged" in out and "1 of 4 files" in out
        assert len(contents(folder)) == 3 and path.split("/")[1] not in contents(folder)
        hub.corrupt = None
        assert run(*command, env=environment(endpoint))[0] == 0
        assert contents(folder) == contents(hub.folder / "transformer")


@pytest.mark.parametrize(
    "status, sentence",
    [
        (401, "asks for a login for {} (401). Run `hf auth login`, or set HF_TOKEN"),
        (403, "refuses {} (403). Accept the licence"),
        (404, "has no {} (404)"),
        (500, "answered with an error at {} (500)"),
    ],
)
def test_a_refusal_is_one_sentence(comfyui, hub, status, sentence):
    with hub.serve() as endpoint:
        hub.status = status
        code, _, err = run("download", comfyui, "--yes", env=environment(endpoint))
        assert code == 1 and sentence.format(REPOSITORY) in err and err.count("\n") == 1
        hub.status, hub.file_status = None, status
        command = ("download", comfyui, "--yes", "--part", "eva_clip")
        code, _, err = run(*command, hurried=True, env=environment(endpoint))
        assert code == 1 and sentence.format("face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt") in err
    assert not any(content for content in contents(comfyui / "models").values())


def test_a_repository_without_the_part_is_named(comfyui, hub, tmp_path):
    hub.folder = tmp_path / "empty"
    hub.folder.mkdir()
    with hub.serve() as endpoint:
        code, _, err = run("download", comfyui, "--yes", env=environment(endpoint))
    assert code == 1 and "has no transformer_ema or transformer at the model hub" in err


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["closed port", "offline mode"])
def test_offline_lists_every_address_and_target(comfyui, release, variables):
    code, _, err = run("download", comfyui, "--yes", env=environment(**variables))
    assert code == 1 and ("HF_HUB_OFFLINE is set" in err if variables else "connection to the model hub failed" in err)
    base = f"http://127.0.0.1:9/{REPOSITORY}/resolve/main"
    models = comfyui / "models"
    for name in ("transformer/config.json", "vae/diffusion_pytorch_model.safetensors", "text_encoder/<shard>"):
        part, file = name.split("/")
        assert f"  {base}/{name}\n    -> {models / PLACES[part] / file}" in err
    for part in ("face_parsing", "eva_clip", "face_detector", "face_recogniser"):
        assert re.search(rf"  {base}/face_encoder/\S+\n    -> {re.escape(str(models / PLACES[part]))}\n?", err)
    folder = models / PLACES["transformer"]
    shutil.copytree(release / "transformer", folder)  # The index is there now, and names the shards.
    _, _, err = run("download", comfyui, "--yes", env=environment(**variables))
    assert f"  {base}/transformer/{SHARD}\n    -> {folder / SHARD}" in err


def test_a_slow_download_shows_progress_and_stops_cleanly(comfyui, large_hub):
    target = comfyui / "models" / PLACES["transformer"] / SHARD
    partial = target.with_name(f"{SHARD}.part")
    with large_hub.serve() as endpoint:
        large_hub.rate = 8_000_000
        command = ("download", comfyui, "--yes", "--part", "transformer")
        process = start(*command, env=environment(endpoint))
        wait_until(lambda: partial.exists() and partial.stat().st_size, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 130 and "Traceback" not in err
        assert err.endswith("\nStopped; the next run goes on where this one stopped.\n")
        assert re.search(r"(42|84)%.*M/25\.0M", err), err
        kept = partial.stat().st_size
        assert kept in (BLOCK, 2 * BLOCK) and not target.exists()

        large_hub.rate = None
        large_hub.requests.clear()
        assert run(*command, env=environment(endpoint))[0] == 0
        assert large_hub.starts(f"transformer/{SHARD}") == list(range(kept, SIZE, BLOCK))
        assert contents(target.parent) == contents(large_hub.folder / "transformer")


def test_a_file_of_the_user_is_named_and_kept(comfyui, hub):
    folder = comfyui / "models" / PLACES["transformer"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"mine": true}')
    shard = hub.folder / "transformer" / SHARD
    same_size = bytes(shard.stat().st_size)
    (folder / SHARD).write_bytes(same_size)
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").symlink_to("/nowhere/at/all")
    with hub.serve() as endpoint:
        code, out, _ = run("download", comfyui, "--yes", "--part", "transformer", env=environment(endpoint))
    assert code == 1 and out.count("DIFFERS") == 3 and f"DIFFERS  {folder / SHARD} is not the file" in out
    assert (folder / "config.json").read_text() == '{"mine": true}' and (folder / SHARD).read_bytes() == same_size
    assert (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").is_symlink()
    assert (folder / "diffusion_pytorch_model.safetensors.index.json").is_file()


def test_a_disk_that_is_too_small_is_named_beforehand(large_hub, tmpfs):
    with large_hub.serve() as endpoint:
        (tmpfs / "models").mkdir()
        code, _, err = run("download", tmpfs, "--yes", "--part", "transformer", env=environment(endpoint))
    assert code == 1 and re.search(r"25\.0 MB are to be fetched, but the disk of .* has 16\.\d MB free", err)
    assert not contents(tmpfs)


def test_a_disk_that_fills_up_is_one_sentence(comfyui, large_hub):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000_000, 15_000_000))

    target = comfyui / "models" / PLACES["transformer"] / SHARD
    with large_hub.serve() as endpoint:
        command = ("download", comfyui, "--yes", "--part", "transformer")
        code, _, err = run(*command, env=environment(endpoint), preexec_fn=limit)
        assert code == 1 and f"The disk is full: transformer/{SHARD} is not complete." in err
        assert not target.exists()
        assert run(*command, env=environment(endpoint))[0] == 0  # Room has been made.
    assert contents(target.parent) == contents(large_hub.folder / "transformer")
