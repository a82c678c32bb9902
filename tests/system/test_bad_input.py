"""What a user reads when a file, a photo or a wire is wrong: one sentence with the cause and the cure."""

import json
import os
import shutil
from contextlib import contextmanager

import comfy.ldm.wan.vae
import comfy.model_patcher
import cv2
import folder_paths
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.checkpoint.quantization import json_tensor
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.comfyui.model_folders import checkpoint_names
from consisid_pack.consisid_core.comfyui.vae import _empty_vae, require_cogvideox, wrap_vae
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.types import Face
from safetensors.torch import save_file

FACE_MODELS = {
    "insightface_pack": "consisid_demo",
    "face_parsing": "consisid_demo/parsing_bisenet.pth",
    "eva_clip": "consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
    "provider": "CPU",
}

# Kind of weights -> (node, input, model folder, file of the demo set, what it is called, what the error says to choose)
LOADERS = {
    "transformer": (
        "ConsisIDModelLoader", "model_name", "diffusion_models", "consisid_demo/transformer",
        "a ConsisID transformer", "Choose ConsisID's transformer",
    ),
    "vae": (
        "ConsisIDVAELoader", "vae_name", "vae", "consisid_demo/diffusion_pytorch_model.safetensors",
        "a CogVideoX VAE", "Choose ConsisID's VAE",
    ),
    "text_encoder": (
        "ConsisIDTextEncoderLoader", "text_encoder_name", "text_encoders", "consisid_demo/text_encoder",
        "a T5 text encoder", "Choose a T5 v1.1 XXL encoder",
    ),
    "parser": (
        "ConsisIDFaceModelsLoader", "face_parsing", "consisid", FACE_MODELS["face_parsing"],
        "a BiSeNet face parser", "Choose parsing_bisenet.pth",
    ),
    "eva": (
        "ConsisIDFaceModelsLoader", "eva_clip", "consisid", FACE_MODELS["eva_clip"],
        "an EVA-CLIP model", "Choose EVA02_CLIP_L_336_psz14_s6B.pt",
    ),
}  # fmt: skip
KINDS = list(LOADERS)
SHARDED = ["transformer", "text_encoder"]


@contextmanager
def refused(*words):
    """The block raises a ConsisIDError that holds these words in this order and shows nothing of a library."""
    with pytest.raises(ConsisIDError) as caught:
        yield
    error, message = caught.value, str(caught.value)
    rest = message
    for word in words:
        assert word in rest, (word, message)
        rest = rest.split(word, 1)[1]
    assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)
    assert "\n" not in message and "Traceback" not in message and "weights_only" not in message


@pytest.fixture(scope="module")
def folder(models_dir, tmp_path_factory):
    """A second models folder for bad files."""
    folder = tmp_path_factory.mktemp("bad_models")
    names = ("diffusion_models", "text_encoders", "vae", "consisid")
    for name in names:
        folder_paths.add_model_folder_path(name, str(folder / name))
    yield folder
    for name in names:
        folder_paths.folder_names_and_paths[name][0].remove(str(folder / name))
        folder_paths.filename_list_cache.pop(name, None)


@pytest.fixture
def place(folder, tmp_path):
    """Path and name of a new file among the models of a kind."""

    def path(kind, file):
        name = f"{tmp_path.name}/{file}"
        path = folder / LOADERS[kind][2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, name

    return path


@pytest.fixture
def load(run_node):
    """Run the loader of a kind on a file name."""

    def run(kind, name):
        node, input_name = LOADERS[kind][:2]
        others = FACE_MODELS if node == "ConsisIDFaceModelsLoader" else {}
        return run_node(node, **{**others, input_name: name})

    return run


@pytest.fixture(scope="module")
def weights(models_dir):
    """Kind -> (state dict, config) of the demo set."""
    files = {kind: read_checkpoint(models_dir / LOADERS[kind][2] / LOADERS[kind][3]) for kind in KINDS}
    return {kind: (file.tensors, file.config) for kind, file in files.items()}


@pytest.fixture
def write(place, weights):
    """Write weights, with the config that belongs to the kind, into one file; returns its path and name."""

    def save(kind, state_dict, file="weights.safetensors"):
        path, name = place(kind, file)
        state_dict = {key: tensor.contiguous() for key, tensor in state_dict.items()}
        save_file(state_dict, path, {"config": json.dumps(weights[kind][1])})
        return path, name

    return save


# ---- files ---------------------------------------------------------------------------------------------------------


class Code:
    """Unpickling this creates the file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "web page", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_named(kind, damage, ending, load, place, weights):
    path, name = place(kind, "weights" + ending)
    state_dict = weights[kind][0]
    save_file(state_dict, path) if ending == ".safetensors" else torch.save(state_dict, path)
    whole = path.read_bytes()
    content = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "web page": b"<!DOCTYPE html>\n<html>404: Not Found</html>\n",
        "text": b"hello world",
    }[damage]
    path.write_bytes(content)
    with refused(f"{path} cannot be read as a weight file", f"{len(content):,} bytes", "Download it again"):
        load(kind, name)


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_pickle_is_not_run(kind, load, place, tmp_path):
    path, name = place(kind, "weights.pth")
    for content in ({"weight": torch.zeros(2), "extra": Code(tmp_path / "ran")}, Code(tmp_path / "ran")):
        torch.save(content, path)
        with refused(f"{path} holds Python objects (", "mkdir", "can run any code", "Choose a file of tensors only"):
            load(kind, name)
    path.rename(path.with_suffix(".safetensors"))
    with refused("cannot be read as a weight file"):
        load(kind, name.replace(".pth", ".safetensors"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3, "loss": 0.5}, {0: torch.zeros(2), 1: torch.zeros(3)}])
def test_files_without_tensors(content, load, place):
    path, name = place("eva", "weights.pt")
    torch.save(content, path)
    with refused(f"{path} holds no named tensors"):
        load("eva", name)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_models(kind, load, write, weights):
    remedy = LOADERS[kind][5]
    others = {LOADERS[other][4]: weights[other][0] for other in KINDS if other != kind}
    face = ("local_facial_extractor.", "perceiver_cross_attention.")
    others["a plain CogVideoX transformer, without ConsisID's face modules"] = {
        name: tensor for name, tensor in weights["transformer"][0].items() if not name.startswith(face)
    }
    others["a Stable Diffusion checkpoint"] = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(8),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(8, 4, 3, 3),
    }
    others["an image VAE"] = {"decoder.conv_in.weight": torch.zeros(8, 4, 3, 3)}
    others["a LoRA"] = {"transformer.proj_out.lora_A.weight": torch.zeros(4, 8)}
    others["weights of another kind (first names: ab, c)"] = {"ab": torch.zeros(1), "c": torch.zeros(1)}
    for description, state_dict in others.items():
        path, name = write(kind, state_dict)
        with refused(f"{path} is not ", f"it looks like {description}", remedy):
            load(kind, name)


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_not_among_the_models(kind, load, write, weights, models_dir, tmp_path):
    _, _, folder_name, demo, *_ = LOADERS[kind]
    path, name = write(kind, weights[kind][0])
    folder_paths.filename_list_cache.pop(folder_name, None)
    assert name in folder_paths.get_filename_list(folder_name)
    path.unlink()
    with refused(f"{name} is not in ", str(models_dir / folder_name), "Put it there or choose another"):
        load(kind, name)
    # Good weights, but not among the models.
    outside = tmp_path / "weights.safetensors"
    source = models_dir / folder_name / demo
    shutil.copytree(source, outside) if source.is_dir() else shutil.copy(source, outside)
    for name in (os.path.relpath(outside, models_dir / folder_name), str(outside), "..", ""):
        with refused(f"{name} is not in "):
            load(kind, name)


def test_vanished_between_choice_and_reading(folder):
    for name in ("gone.safetensors", "gone.pth"):
        with refused(f"{folder / name} does not exist", "choose another"):
            read_checkpoint(folder / name)


# ---- folders of shards ---------------------------------------------------------------------------------------------


@pytest.fixture
def shards(place, models_dir):
    """A copy of the demo set's folder; returns (path, name, its index file)."""

    def copy(kind):
        _, _, folder_name, demo, *_ = LOADERS[kind]
        path, name = place(kind, "sharded")
        shutil.copytree(models_dir / folder_name / demo, path, dirs_exist_ok=True)
        (index,) = path.glob("*.index.json")
        return path, name, index

    return copy


@pytest.mark.parametrize("kind", SHARDED)
def test_missing_shards(kind, load, shards):
    path, name, index = shards(kind)
    first, second = sorted(path.glob("*-of-*.safetensors"))
    second.unlink()
    with refused(f"{path} is incomplete", f"{index.name} names 2 shards and 1 are missing ({second.name})", "Download"):
        load(kind, name)
    shutil.copy(first, second)  # under the right name, but with the other half's content
    with refused(f"{second} repeats", "parameters of another shard", "Files of two downloads are mixed", "download it"):
        load(kind, name)


@pytest.mark.parametrize("kind", SHARDED)
def test_shards_outside_a_folder_of_their_own(kind, load, shards, folder):
    path, _, _ = shards(kind)
    shard = min(path.glob("*-of-*.safetensors"))
    loose = folder / LOADERS[kind][2] / shard.name
    shutil.copy(shard, loose)
    folder_paths.filename_list_cache.pop(LOADERS[kind][2], None)
    assert loose.name in checkpoint_names(LOADERS[kind][2], "none")
    with refused(f"{loose} is one of several shards", "into a folder of their own and choose that folder"):
        load(kind, loose.name)
    loose.unlink()


@pytest.mark.parametrize("kind", SHARDED)
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"weight_map": {}},
        {"weight_map": ["model-00001-of-00002.safetensors"]},
        {"weight_map": {"a": "../transformer/diffusion_pytorch_model-00001-of-00002.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": ".."}},
    ],
)
def test_indexes_that_name_no_shards(kind, content, load, shards):
    path, name, index = shards(kind)
    index.write_text(json.dumps(content))
    with refused(str(path), "Download"):
        load(kind, name)
    index.write_text(json.dumps({"weight_map": {"a": 3}}))
    with refused(f"{path} is incomplete", "(3)"):
        load(kind, name)


@pytest.mark.parametrize("kind", SHARDED)
def test_broken_json(kind, load, shards, weights, place):
    path, name, index = shards(kind)
    whole, config = index.read_text(), (path / "config.json").read_bytes()
    for file in (index, path / "config.json"):
        for content in (b"", b"{", b"[1]", b"\0\xff\xfe"):
            file.write_bytes(content)
            with refused(str(file), "Download it again"):
                load(kind, name)
        index.write_text(whole)
    (path / "config.json").write_bytes(config)
    (path / "pytorch_model.bin.index.json").write_text("{")  # Ignored where there is one of safetensors.
    load(kind, name)
    (path / "second.safetensors.index.json").write_text(whole)
    with refused(f"{path} holds 2 index files", "exactly one", "Download the whole folder again"):
        load(kind, name)
    for file in path.glob("*.index.json"):
        file.unlink()
    with refused(f"{path} holds 0 index files"):
        load(kind, name)


def test_broken_config_beside_or_inside_one_file(load, place, write, weights):
    state_dict, config = weights["transformer"]
    path, name = write("transformer", state_dict, "diffusion_pytorch_model.safetensors")
    path.with_name("config.json").write_text('{"sample_width": 30,')
    with refused(str(path.with_name("config.json")), "cannot be read as JSON", "Download it again"):
        load("transformer", name)
    path, name = place("transformer", "weights.safetensors")
    for broken in ("{", "[]", "null"):
        save_file(state_dict, path, {"config": broken})
        with refused(f"The config in the metadata of {path}", "JSON", "Download it again"):
            load("transformer", name)
    nonsense = {key: value if key.startswith(("sample_", "max_")) else "nonsense" for key, value in config.items()}
    save_file(state_dict, path, {"config": json.dumps({**nonsense, "temporal_compression_ratio": None})})
    load("transformer", name)
    save_file(state_dict, path, {"config": json.dumps({key: None for key in config})})
    with refused(f"{path} has a position table of", "config.json beside the weights", "Choose ConsisID's transformer"):
        load("transformer", name)


# ---- parameters ----------------------------------------------------------------------------------------------------

# A parameter that sizes are read from, and one that none are read from.
PARAMETERS = {
    "transformer": ("patch_embed.text_proj.weight", "transformer_blocks.3.ff.net.2.weight"),
    "vae": ("encoder.down_blocks.1.resnets.0.conv1.conv.weight", "decoder.norm_out.conv_y.conv.bias"),
    "text_encoder": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.1.layer.1.DenseReluDense.wo.weight",
    ),
    "parser": ("conv_out.conv_out.weight", "ffm.conv1.weight"),
    "eva": ("visual.patch_embed.proj.weight", "visual.blocks.7.attn.proj.weight"),
}


@pytest.mark.parametrize("shape", [None, (3,), (), (2, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_misshapen_parameters(kind, shape, load, write, weights):
    for parameter, sizes in zip(PARAMETERS[kind], (True, False), strict=True):
        state_dict = dict(weights[kind][0])
        del state_dict[parameter]
        if shape is not None:
            state_dict[parameter] = torch.zeros(shape)
        path, name = write(kind, state_dict)
        found = f"{parameter.removeprefix('visual.')} {shape} instead of"
        cause = (
            ["missing"] if shape is None else [] if sizes else ["does not fit: parameters 1 of the wrong shape", found]
        )
        with refused(str(path), *cause, LOADERS[kind][5]):
            load(kind, name)


def test_text_encoders_of_another_family(load, write, weights):
    state_dict = weights["text_encoder"][0]
    path, name = write("text_encoder", {**state_dict, "shared.weight": torch.zeros(256384, 64).half()})
    with refused(f"{path} is not a T5 v1.1", "256384 entries instead of 32128", "UMT5", "Choose a T5 v1.1 XXL"):
        load("text_encoder", name)
    settings = {"encoder.block.0.layer.0.SelfAttention.q.comfy_quant": json_tensor({"format": "int3_of_tomorrow"})}
    path, name = write("text_encoder", {**state_dict, **settings})
    with refused(f"{path} is quantised as int3_of_tomorrow, which this ComfyUI does not know", "Choose a T5 v1.1 XXL"):
        load("text_encoder", name)
    # Names that the encoder has no use for do no harm.
    _, name = write("text_encoder", {**state_dict, "decoder.final_layer_norm.weight": torch.zeros(64)})
    load("text_encoder", name)


# ---- photos --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def face_models(run_node):
    (models,) = run_node("ConsisIDFaceModelsLoader", **FACE_MODELS)
    return models


@pytest.fixture
def analyze(run_node, face_models):
    return lambda image, **options: run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=image, **options)


def photo(picture):
    return torch.from_numpy(picture).float().div(255)[None]


@pytest.fixture(scope="module")
def astronaut():
    return photo(skimage.data.astronaut())


@pytest.fixture(scope="module")
def faceless():
    return photo(skimage.data.coffee())


def test_photos_without_the_face_asked_for(analyze, astronaut, faceless):
    with refused("No face found", "Use a sharp, evenly lit photo"):
        analyze(faceless)
    with refused("face_index 7 does not exist: found 1 face,", "below 1"):
        analyze(astronaut, face_index=7)
    faceless = torch.nn.functional.interpolate(faceless.movedim(-1, 1), (512, 512)).movedim(1, -1)
    with refused("Photo 2 of 2 (512x512): No face found", "Use a sharp"):
        analyze(torch.cat((astronaut, faceless)))
    with refused("Photo 1 of 2 (512x512): No face found"):
        analyze(torch.cat((faceless, astronaut)))


def test_unusable_pictures(analyze, astronaut):
    with refused("1x1 px, too small", "at least 16 px"):
        analyze(torch.zeros(1, 1, 1, 3))
    broken = astronaut.clone()
    broken[0, 100, 100] = float("nan")
    with refused("The photo (512x512 px) contains NaN", "Preview Image"):
        analyze(broken)
    with refused("Photo 2 of 2", "contains NaN"):
        analyze(torch.cat((astronaut, broken)))
    with refused("this one has [512, 512, 5]"):
        analyze(torch.zeros(1, 512, 512, 5))


@pytest.mark.parametrize("background", ["remove", "keep"])
def test_grey_and_transparent_photos_work(analyze, astronaut, background):
    grey = astronaut.mean(-1, keepdim=True)
    rgba = torch.cat((astronaut, torch.ones_like(grey)), dim=-1)
    for image in (grey, rgba):
        face, crop, detections = analyze(image, background=background)
        assert crop.shape == (1, 512, 512, 3) and detections.shape == astronaut.shape
        assert crop.isfinite().all() and face.score[0] > 0.5


def test_very_wide_photos_work(analyze, astronaut):
    wide = torch.ones(1, 512, 16000, 3)
    with refused("No face found"):
        analyze(wide)
    # In the 1024 px copy that the detector sees, this face is 22 px wide.
    head = cv2.resize(skimage.data.astronaut()[:300, 80:380], (1000, 1000))
    wide = torch.nn.functional.pad(photo(head), (0, 0, 0, 15000), value=1.0)
    face, _, detections = analyze(wide)
    assert detections.shape == wide.shape == (1, 1000, 16000, 3)
    assert 300 < face.bbox[0, 0] < face.bbox[0, 2] < 700


# ---- identity and sampling -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(run_node):
    (model,) = run_node("ConsisIDModelLoader", model_name=LOADERS["transformer"][3])
    return model


@pytest.fixture(scope="module")
def other_model():
    """A MODEL of another kind."""
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), load_device=device, offload_device=device)


@pytest.fixture(scope="module")
def face():
    white = torch.ones(1, 512, 512, 3)
    return Face(
        embedding=torch.ones(1, 512),
        landmarks=torch.tensor([[[193.0, 240.0], [319.0, 240.0], [257.0, 314.0], [201.0, 371.0], [313.0, 371.0]]]),
        bbox=torch.tensor([[100.0, 100.0, 400.0, 400.0]]),
        score=torch.ones(1),
        image=white,
        gray_image=white,
        alignment=torch.eye(2, 3)[None],
    )


@pytest.fixture
def extract(run_node, face):
    """GLOBAL_ID by the demo VAE."""
    (vae,) = run_node("ConsisIDVAELoader", vae_name=LOADERS["vae"][3])

    def run(**options):
        inputs = {"face": face, "vae": vae, "width": 64, "height": 48, "length": 5, **options}
        (global_id,) = run_node("ConsisIDGlobalIDExtractor", **inputs)
        return global_id

    return run


def test_video_sizes(extract):
    with refused("width 721 is not a multiple of 16; the nearest is 720"):
        extract(width=721)
    with refused("height 470 is not a multiple of 16; the nearest is 464"):
        extract(height=470)
    for length, nearest in ((2, 1), (48, 49), (50, 49), (0, 1)):
        with refused(f"length {length} is not 4n+1 frames; the nearest is {nearest}"):
            extract(length=length)
    with refused("keypoints need a second latent frame", "set length to 5 or more (it is 1)"):
        extract(length=1, keypoints=True)
    assert extract(length=5, keypoints=True).latents.shape == (1, 16, 2, 6, 8)


def test_image_and_other_video_vaes(extract):
    with refused("VAE is AutoencoderKL, not a CogVideoX VAE", "Load ConsisID VAE"):
        extract(vae=_empty_vae())
    wan = _empty_vae()  # whose latents have the shape of CogVideoX's
    wan.first_stage_model = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    with refused("VAE is WanVAE, not a CogVideoX VAE", "Load ConsisID VAE"):
        extract(vae=wan)


def test_comfyuis_own_cogvideox_vae_is_taken():
    module = pytest.importorskip("comfy.ldm.cogvideo.vae", reason="newer than ComfyUI 0.3.75")
    with torch.device("meta"):
        net = module.AutoencoderKLCogVideoX()
    require_cogvideox(wrap_vae(net))


def test_local_id_of_models_that_do_not_belong_together(
    run_node, load, place, weights, face, model, other_model, face_models
):
    with refused("MODEL is a Linear, not ConsisID", "Load ConsisID DiT"):
        run_node("ConsisIDLocalIDExtractor", model=other_model, face_models=face_models, face=face)
    path, name = place("eva", "other.pt")
    state_dict = dict(weights["eva"][0])
    for parameter in ("visual.head.weight", "visual.head.bias"):
        state_dict[parameter] = state_dict[parameter][:24]
    torch.save(state_dict, path)
    (others,) = load("eva", name)
    with refused("features of width 536 and 64, but this MODEL takes 544 and 64", "demo and released"):
        run_node("ConsisIDLocalIDExtractor", model=model, face_models=others, face=face)


@pytest.fixture
def prompt():
    return [[torch.zeros(1, 226, 64), {}]]


def test_conditioning_range(run_node, extract, prompt):
    with refused("start_percent 0.7 lies after end_percent 0.2", "swap them"):
        run_node(
            "ConsisIDConditioning", positive=prompt, negative=prompt, global_id=extract(), start_percent=0.7,
            end_percent=0.2,
        )  # fmt: skip


@pytest.fixture
def sample(run_node, model, prompt):
    def run(latents, **options):
        inputs = {"model": model, "positive": prompt, "negative": prompt, "steps": 1, **options}
        (latent,) = run_node("ConsisIDSampler", latent_image={"samples": latents}, **inputs)
        return latent["samples"]

    return run


def test_sampling_with_another_model(sample, other_model):
    with refused("MODEL is a Linear, not ConsisID", "Load ConsisID DiT"):
        sample(torch.zeros(1, 16, 2, 6, 8), model=other_model)


def test_sampling_without_identity_works(sample):
    out = sample(torch.zeros(1, 16, 2, 6, 8))
    assert out.shape == (1, 16, 2, 6, 8) and out.isfinite().all() and out.std() > 0


def test_empty_latents_of_an_image_model_become_one_frame(sample):
    for height, width in ((6, 8), (7, 9)):
        out = sample(torch.zeros(1, 4, height, width))
        assert out.shape == (1, 16, 1, height, width) and out.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 4, 6, 8), (1, 4, 2, 6, 8), (1, 32, 2, 6, 8)])
def test_filled_latents_of_another_model_are_refused(sample, run_node, extract, prompt, shape):
    positive, negative, _ = run_node("ConsisIDConditioning", positive=prompt, negative=prompt, global_id=extract())
    for conditioning in ({}, {"positive": positive, "negative": negative}):
        with refused("16 channels"):
            sample(torch.ones(shape), denoise=0.5, **conditioning)
