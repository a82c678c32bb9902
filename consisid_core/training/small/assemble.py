"""Writes the trained set as files that the pack's loaders read, in the formats and under the names of the release."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...checkpoint.files import NOTE, VOCABULARY
from ...checkpoint.net_config import T5_VOCABULARY, diffusers_config
from ...errors import ConsisIDError
from ...evaluation.results import whole_file
from ...model.vae import CogVideoXVAE
from . import SET_NAME
from .autoencoder import by_name
from .nets import Sizes
from .stage import read_state
from .words import UNKNOWN

_NOTE = (
    "a small ConsisID that comes with the pack, for a first look on any computer. It was trained on drawn people who "
    "do not exist, for {sizes.frames} frames of {sizes.pixels}x{sizes.pixels}, and knows a few dozen words. Expect "
    "somebody of that hair, skin and shirt, not a likeness; the pack's README says how to get the released weights."
)

_EVA_NAMES = {
    "attn.norm.": "attn.inner_attn_ln.", "attn.q_proj.bias": "attn.q_bias", "attn.v_proj.bias": "attn.v_bias",
    "mlp.norm.": "mlp.ffn_ln.", "mlp.fc1_g.": "mlp.w1.", "mlp.fc1_x.": "mlp.w2.", "mlp.fc2.": "mlp.w3.",
}  # fmt: skip
"""timm's names -> the released ones."""


def assemble(work: Path, out: Path, sizes: Sizes, pack: Path) -> list[Path]:
    """Write the set, replacing an earlier one.

    Args:
        work: folder of the stages.
        out: a ComfyUI models folder, or one laid out like it.
        sizes: of the nets.
        pack: the insightface pack whose recogniser was taught with; it is copied.

    Returns:
        The files and folders written.

    Raises:
        ConsisIDError: a part is missing; the stage that makes it is named.
    """
    states = {stage: _required(work, stage) for stage in ("vocabulary", "videos", "parser", "denoiser")}
    onnx = sorted(pack.glob("*.onnx"))
    if not onnx:
        raise ConsisIDError(
            f"{pack} holds no .onnx files. Name with --pack the face pack that the people were made with."
        )
    denoiser, about = states["denoiser"], describe({name: states[name] for name in ("videos", "parser", "denoiser")})
    tokens = states["vocabulary"]["tokens"]
    with torch.device("meta"):
        vae_names = CogVideoXVAE(sizes.vae_widths, 1).state_dict()
    nets = {
        "transformer": (
            transformer_weights(denoiser["averaged"], denoiser["identity"]),
            {"config": json.dumps(diffusers_config(sizes.transformer)), NOTE: _NOTE.format(sizes=sizes)},
        ),
        "text_encoder": (
            text_encoder_weights(denoiser["averaged"], tokens),
            {
                "config": json.dumps({**sizes.text_encoder(T5_VOCABULARY), "max_text_seq_length": sizes.text_length}),
                VOCABULARY: json.dumps(tokens),
            },
        ),
        "vae": (by_name(states["videos"]["averaged"], vae_names), {}),
        "parsing_bisenet": (states["parser"]["averaged"], {}),
        "eva_clip": (eva_weights(denoiser["identity"]), {}),
    }
    folder, pack_folder = out / "consisid" / SET_NAME, out / "insightface" / "models" / SET_NAME
    for made in (folder, pack_folder):
        made.mkdir(parents=True, exist_ok=True)
    for name, (tensors, noted) in nets.items():
        _write(tensors, folder / f"{name}.safetensors", {**about, **noted})
    for file in onnx:
        with whole_file(pack_folder / file.name) as unfinished:
            shutil.copyfile(file, unfinished)
    return [*(folder / f"{name}.safetensors" for name in nets), pack_folder]


def describe(states: Mapping[str, Mapping]) -> dict[str, str]:
    """What the files say of themselves, as their metadata.

    Args:
        states: checkpoints of the stages.
    """
    trained = {
        stage: {"steps": state.get("steps", 0), "minutes": round(state.get("seconds", 0) / 60, 1)}
        for stage, state in states.items()
    }
    return {
        "format": "pt",
        "trained_on": "Drawn people who do not exist (consisid_core.people); no photo of a person.",
        "trained": json.dumps(trained),
        "licence": "Apache-2.0",
    }


def transformer_weights(averaged: Mapping[str, torch.Tensor], identity: Mapping[str, torch.Tensor]) -> dict:
    """Parameters of ConsisIDTransformer.

    Args:
        averaged: of `TextAndVideo`.
        identity: of `Identity`, whose extractor belongs to the transformer's file.
    """
    return {
        **_under("transformer.", averaged),
        **{f"local_facial_extractor.{name}": x for name, x in _under("extractor.", identity).items()},
    }


def text_encoder_weights(averaged: Mapping[str, torch.Tensor], tokens: list[int]) -> dict[str, torch.Tensor]:
    """Parameters of T5's encoder with a row for each of its tokens: of those it never learned the unknown one's.

    Args:
        averaged: of `TextAndVideo`.
        tokens: which have a row.
    """
    weights = _under("text.", averaged)
    weights.pop("encoder.embed_tokens.weight", None)
    learned = weights["shared.weight"]
    table = learned[UNKNOWN].repeat(T5_VOCABULARY, 1)
    table[torch.tensor(tokens)] = learned
    return {**weights, "shared.weight": table}


def eva_weights(identity: Mapping[str, torch.Tensor]) -> dict:
    """Parameters of the image tower under the released names. identity: of `Identity`."""
    released = {}
    for name, x in _under("tower.tower.", identity).items():
        for ours, theirs in _EVA_NAMES.items():
            name = name.replace(ours, theirs)
        released[f"visual.{name}"] = x
    return released


def _under(prefix, tensors):
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _required(work, stage):
    state = read_state(work, stage)
    if state is None:
        maker = "people" if stage == "vocabulary" else stage
        raise ConsisIDError(f"{work} has no {stage}.pt yet. Run the stage that makes it: --stages {maker}")
    return state


def _write(tensors, file, about):
    # In bf16 a set takes a quarter less in an archive than in fp16.
    rounded = {name: (x.bfloat16() if x.is_floating_point() else x).contiguous() for name, x in tensors.items()}
    with whole_file(file) as unfinished:
        save_file(rounded, unfinished, about)
