"""Writes a complete set of tiny weight files into a ComfyUI models folder, in the formats and names of the release.

    python -m consisid_core.dev.tiny MODELS_DIR

The nets are the real classes at test size with seeded random weights, so videos made with them are noise. Face
detection and recognition are real: a stand-in insightface pack from YuNet and SFace (see `demo_face_pack`). Every file
carries a marker, and every loader logs that these are demo weights.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..checkpoint.files import DEMO_MARKER
from ..checkpoint.net_config import diffusers_config, t5_shapes
from ..errors import ConsisIDError
from ..evaluation.nets.curricularface import INPUT_SIZE, CurricularFace
from ..face.eva_clip import EvaClipVisual
from ..face.parsing import BiSeNet
from ..model.config import FacialExtractorConfig, TransformerConfig
from ..model.transformer import ConsisIDTransformer
from ..model.vae import CogVideoXVAE
from .demo_face_pack import write_demo_face_pack

SET_NAME = "consisid_demo"
DEMO_NOTE = "random weights of test size, for demos and tests: results are noise"

EVA_DIM = 32
FACE_EMBEDDING_DIM = 512
TEXT_DIM = 64

TRANSFORMER = TransformerConfig(
    num_layers=4,
    num_heads=6,
    head_dim=16,
    text_embed_dim=TEXT_DIM,
    time_embed_dim=64,
    ff_dim=384,
    sample_width=30,
    sample_height=20,
    sample_frames=5,
    cross_attn_heads=4,
    cross_attn_head_dim=16,
    facial_extractor=FacialExtractorConfig(
        id_dim=FACE_EMBEDDING_DIM + EVA_DIM, vit_dim=64, heads=4, head_dim=16, output_dim=64
    ),
)
"""Trained size, so to speak: 240x160 pixels, 17 frames."""

T5 = {
    "architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": TEXT_DIM, "d_ff": 128, "d_kv": 16,
    "num_heads": 4, "num_layers": 2, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "is_gated_act": True,
    "dense_act_fn": "gelu_new", "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip

VAE = {
    "_class_name": "AutoencoderKLCogVideoX", "block_out_channels": [32, 32, 32, 64], "layers_per_block": 1,
    "latent_channels": 16, "scaling_factor": 0.7,
    "down_block_types": ["CogVideoXDownBlock3D"] * 4, "up_block_types": ["CogVideoXUpBlock3D"] * 4,
}  # fmt: skip


def write_tiny_models(models_dir):
    """Write the set under models_dir, replacing an earlier one. Returns the paths written.

    Raises ConsisIDError if a package that provides real face weights is missing.
    """
    models_dir = Path(models_dir)
    writers = {
        f"diffusion_models/{SET_NAME}/transformer": _write_transformer,
        f"text_encoders/{SET_NAME}/text_encoder": _write_text_encoder,
        f"vae/{SET_NAME}/diffusion_pytorch_model.safetensors": _write_vae,
        f"consisid/{SET_NAME}/parsing_bisenet.pth": _write_parser,
        f"consisid/{SET_NAME}/EVA02_CLIP_L_336_psz14_s6B.pt": _write_eva,
        f"consisid/{SET_NAME}/glint360k_curricular_face_r101_backbone.bin": _write_curricular_face,
        f"consisid/{SET_NAME}/clip-vit-base-patch32": _write_clip,
        f"insightface/models/{SET_NAME}": write_demo_face_pack,
    }
    for name, write in writers.items():
        path = models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return [models_dir / name for name in writers]


def randomize(state_dict, seed):
    """Fill tensors in place so that no branch of a net vanishes or explodes: norms near 1, matrices by fan-in."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state_dict.items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif "norm" in name and tensor.ndim == 1 and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        elif "relative_attention_bias" in name or "shared" in name or "token" in name:
            pass
        elif tensor.ndim >= 2 and "pos_embed" not in name:
            noise = noise / tensor[0].numel() ** 0.5
        else:
            noise = 0.1 * noise
        tensor.copy_(noise)
    return state_dict


@torch.no_grad()
def _write_transformer(folder):
    state_dict = randomize(ConsisIDTransformer(TRANSFORMER).state_dict(), seed=1)
    _write_shards(folder, "diffusion_pytorch_model", state_dict, diffusers_config(TRANSFORMER))


@torch.no_grad()
def _write_text_encoder(folder):
    state_dict = randomize({name: torch.empty(shape) for name, shape in t5_shapes(T5).items()}, seed=2)
    _write_shards(folder, "model", {name: tensor.half() for name, tensor in state_dict.items()}, T5)


@torch.no_grad()
def _write_vae(file):
    net = CogVideoXVAE(VAE["block_out_channels"], VAE["layers_per_block"], VAE["latent_channels"])
    state_dict = randomize(net.state_dict(), seed=3)
    state_dict["decoder.conv_out.conv.weight"] *= 0.3  # Most pixels lie between black and white, then.
    _save_safetensors(state_dict, file, VAE)


@torch.no_grad()
def _write_parser(file):
    state_dict = randomize(BiSeNet(width=8).state_dict(), seed=4)
    _save_pickle(state_dict, file)


@torch.no_grad()
def _write_eva(file):
    visual = EvaClipVisual(width=64, depth=24, mlp_dim=170, output_dim=EVA_DIM)
    state_dict = randomize(visual.tower.state_dict(), seed=5)
    released_names = {
        "attn.norm.": "attn.inner_attn_ln.", "attn.q_proj.bias": "attn.q_bias", "attn.v_proj.bias": "attn.v_bias",
        "mlp.norm.": "mlp.ffn_ln.", "mlp.fc1_g.": "mlp.w1.", "mlp.fc1_x.": "mlp.w2.", "mlp.fc2.": "mlp.w3.",
    }  # fmt: skip
    released = {}
    for name, tensor in state_dict.items():
        for ours, theirs in released_names.items():
            name = name.replace(ours, theirs)
        released[f"visual.{name}"] = tensor.half()
    _save_pickle(released, file)


@torch.no_grad()
def _write_curricular_face(file):
    net = CurricularFace([(4, 1), (8, 1), (16, 1), (32, 1)])
    net.load_state_dict(randomize(net.state_dict(), seed=6))
    # With the statistics of some pictures, without which all faces are one to it.
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1
    blobs = torch.rand(64, 3, 7, 7, generator=torch.Generator().manual_seed(6)) * 2 - 1
    with torch.random.fork_rng():  # For the net's dropout.
        torch.manual_seed(6)
        net.train()(torch.nn.functional.interpolate(blobs, size=INPUT_SIZE, mode="bilinear"))
    _save_pickle(net.state_dict(), file)


@torch.no_grad()
def _write_clip(folder):
    """A CLIP as transformers keeps it, with a tokenizer that knows single letters only."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
    end = len(vocabulary) - 1
    text = {**layers, "vocab_size": len(vocabulary), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config=text, vision_config={**layers, "patch_size": 32}, projection_dim=32, **{DEMO_MARKER: True}
    )
    state_dict = randomize(CLIPModel(config).state_dict(), seed=7)
    state_dict["logit_scale"].fill_(math.log(100))
    _save_safetensors({name: tensor.contiguous() for name, tensor in state_dict.items()}, folder / "model.safetensors")
    _save_json(config.to_dict(), folder / "config.json")
    _save_json({token: i for i, token in enumerate(vocabulary)}, folder / "vocab.json")
    _replace(folder / "merges.txt", lambda temporary: Path(temporary).write_text("#version: 0.2\n", encoding="utf-8"))
    _save_json({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}, folder / "tokenizer_config.json")
    _save_json(
        {
            "image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "do_normalize": True,
            "do_resize": True, "crop_size": 224, "size": 224, "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        folder / "preprocessor_config.json",
    )  # fmt: skip


def _write_shards(folder, name, state_dict, config):
    """Two shards, an index and a config, as `save_pretrained` of diffusers and transformers lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state_dict)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"{name}-{number:05}-of-00002.safetensors"
        weight_map.update(dict.fromkeys(part, file))
        _save_safetensors({key: state_dict[key] for key in part}, folder / file)
    size = sum(tensor.nbytes for tensor in state_dict.values())
    _save_json({"metadata": {"total_size": size}, "weight_map": weight_map}, folder / f"{name}.safetensors.index.json")
    _save_json(config, folder / "config.json")


def _save_safetensors(state_dict, file, config=None):
    metadata = {DEMO_MARKER: DEMO_NOTE, "format": "pt"}
    if config:
        metadata["config"] = json.dumps(config)
    _replace(file, lambda temporary: save_file(state_dict, temporary, metadata))


def _save_pickle(state_dict, file):
    _replace(file, lambda temporary: torch.save({**state_dict, DEMO_MARKER: torch.ones(1)}, temporary))


def _save_json(content, file):
    _replace(file, lambda temporary: Path(temporary).write_text(json.dumps(content, indent=2), encoding="utf-8"))


def _replace(file, write):
    """Write beside the file and rename, so that a stopped run never leaves half a file under its final name."""
    temporary = f"{file}.part"
    write(temporary)
    os.replace(temporary, file)


def main(arguments):
    if len(arguments) != 1:
        print("usage: python -m consisid_core.dev.tiny MODELS_DIR", file=sys.stderr)
        return 2
    try:
        paths = write_tiny_models(arguments[0])
    except ConsisIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"wrote {path} ({DEMO_NOTE})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
