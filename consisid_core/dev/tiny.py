"""Writes a complete set of tiny weight files into a ComfyUI models folder, in the formats and names of the release.

    python -m consisid_core.dev.tiny MODELS_DIR

The nets are the real classes at test size with seeded random weights, so videos made with them are noise. Face
detection and recognition are real: a stand-in insightface pack from YuNet and SFace (see `demo_face_pack`). Every file
carries a marker, and every loader logs that these are demo weights.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

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
from .random_weights import DEMO_NOTE, randomize, replace, save_json, save_pickle, save_safetensors, write_shards

SET_NAME = "consisid_demo"

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


def write_tiny_models(models_dir: Path | str) -> list[Path]:
    """Write the set under a ComfyUI models folder, replacing an earlier one.

    Returns:
        The files and folders written.

    Raises:
        ConsisIDError: a package that provides real face weights is missing.
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


@torch.no_grad()
def _write_transformer(folder):
    state_dict = randomize(ConsisIDTransformer(TRANSFORMER).state_dict(), seed=1)
    _write_two_shards(folder, "diffusion_pytorch_model", state_dict, diffusers_config(TRANSFORMER))


@torch.no_grad()
def _write_text_encoder(folder):
    state_dict = randomize({name: torch.empty(shape) for name, shape in t5_shapes(T5).items()}, seed=2)
    _write_two_shards(folder, "model", {name: tensor.half() for name, tensor in state_dict.items()}, T5)


@torch.no_grad()
def _write_vae(file):
    net = CogVideoXVAE(VAE["block_out_channels"], VAE["layers_per_block"], VAE["latent_channels"])
    state_dict = randomize(net.state_dict(), seed=3)
    state_dict["decoder.conv_out.conv.weight"] *= 0.3  # Most pixels lie between black and white, then.
    save_safetensors(state_dict, file, VAE)


@torch.no_grad()
def _write_parser(file):
    state_dict = randomize(BiSeNet(width=8).state_dict(), seed=4)
    save_pickle(state_dict, file)


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
    save_pickle(released, file)


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
    save_pickle(net.state_dict(), file)


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
    save_safetensors({name: tensor.contiguous() for name, tensor in state_dict.items()}, folder / "model.safetensors")
    save_json(config.to_dict(), folder / "config.json")
    save_json({token: i for i, token in enumerate(vocabulary)}, folder / "vocab.json")
    replace(folder / "merges.txt", lambda temporary: temporary.write_text("#version: 0.2\n", encoding="utf-8"))
    save_json({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}, folder / "tokenizer_config.json")
    save_json(
        {
            "image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "do_normalize": True,
            "do_resize": True, "crop_size": 224, "size": 224, "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        folder / "preprocessor_config.json",
    )  # fmt: skip


def _write_two_shards(folder, name, state_dict, config):
    names = sorted(state_dict)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    write_shards(folder, name, halves, lambda names: {name: state_dict[name] for name in names}, config)


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit code."""
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
