"""Weight files: which files form one checkpoint, and which dimensions a state dict has.

Dimensions come from tensor shapes. What shapes cannot tell (head sizes of the face modules, the injection interval, the
size that the position table was trained at) comes from diffusers' config keys where they agree with the shapes, else
from the released defaults: the released config carries stale keys.
"""

import json
import re
from pathlib import Path

from .errors import ConsisIDError
from .model.config import FacialExtractorConfig, TransformerConfig

DEMO_MARKER = "consisid_demo_weights"
"""Present in the metadata, or as a key, of every file that holds random demo weights."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


def list_checkpoints(filenames):
    """Names to offer for choice: every file, but the shards of one checkpoint as the folder that holds them.

    Separators are slashes everywhere, so that workflows travel between systems.

    >>> list_checkpoints(["a.safetensors", "b/m-00001-of-00002.safetensors", "b/m-00002-of-00002.safetensors"])
    ['a.safetensors', 'b']
    """
    names = set()
    for name in filenames:
        folder = Path(name).parent
        # Shards without a folder of their own are offered too: choosing one is an error that says what to do.
        names.add(folder.as_posix() if folder.name and _SHARD.search(name) else Path(name).as_posix())
    # Averaged weights stand before the last ones of the same training, as the reference prefers them.
    return sorted(names, key=lambda name: (name.replace("transformer_ema", "transformer"), "_ema" not in name))


def checkpoint_files(path):
    """The weight files of a checkpoint (a file, or a folder of shards with an index) and diffusers' config, if any.

    Raises ConsisIDError for a single shard, a folder without an index, an unreadable index or config, a missing shard,
    or one outside the folder.
    """
    path = Path(path)
    if not path.is_dir():
        if _SHARD.search(path.name):
            raise ConsisIDError(
                f"{path} is one of several shards. Put all of them, with their .index.json and config.json, into a "
                "folder of their own and choose that folder."
            )
        config = path.with_name("config.json")
        is_diffusers = path.stem == "diffusion_pytorch_model" and config.is_file()
        return [path], _read_json(config) if is_diffusers else {}
    indexes = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.index.json"))
    if len(indexes) != 1:
        raise ConsisIDError(
            f"{path} holds {len(indexes)} index files (*.index.json); a folder of shards needs exactly one. "
            "Download the whole folder again."
        )
    weight_map = _read_json(indexes[0]).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ConsisIDError(
            f"{indexes[0]} is not an index of shards: its weight_map must name the files of this folder that hold the "
            "weights. Download it again."
        )
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise ConsisIDError(
            f"{path} is incomplete: {indexes[0].name} names {len(names)} shards and {len(missing)} are missing "
            f"({', '.join(missing)}). Download them into this folder."
        )
    config = path / "config.json"
    return [path / name for name in names], _read_json(config) if config.is_file() else {}


def _read_json(path):
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConsisIDError(f"{path} cannot be read ({error}). Download it again.") from None
    return parse_json(text, path)


def parse_json(text, source):
    """The JSON object in a text. source: where it stands, to begin the sentence of a ConsisIDError if it is none."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConsisIDError(f"{source} cannot be read as JSON ({error}). Download it again.") from None
    if not isinstance(content, dict):
        raise ConsisIDError(f"{source} is not a JSON object. Download it again.")
    return content


def transformer_prefix(names):
    """What stands before a CogVideoX transformer's parameter names in a larger checkpoint, averaged weights first.

    >>> transformer_prefix(["vae.x", "model.diffusion_model.patch_embed.text_proj.weight"])
    'model.diffusion_model.'

    "" where there is no such transformer, so that errors speak of the whole file.
    """
    anchor = "patch_embed.text_proj.weight"
    prefixes = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
    return min(prefixes, key=lambda prefix: ("ema" not in prefix, len(prefix)), default="")


def infer_transformer_config(shapes, config=None):
    """TransformerConfig of a state dict.

    shapes: parameter name -> shape. config: diffusers' config keys, if known; used only where they fit the shapes.
    Raises ConsisIDError saying what the weights are instead, if they are not a ConsisID transformer.
    """
    # What is no positive number cannot agree with any shape.
    config = {key: value for key, value in (config or {}).items() if isinstance(value, int) and value > 0}
    _require_consisid(shapes)

    hidden_dim, in_channels, patch_size, _ = shapes["patch_embed.proj.weight"]
    head_dim = shapes["transformer_blocks.0.attn1.norm_q.weight"][0]
    num_layers = _count(shapes, "transformer_blocks")
    positions = shapes.get("patch_embed.pos_embedding")
    max_text_length, sample = _sample_size(positions, patch_size, config)
    cross_attn_inner = shapes["perceiver_cross_attention.0.to_q.weight"][0]
    return TransformerConfig(
        in_channels=in_channels,
        out_channels=shapes["proj_out.weight"][0] // patch_size**2,
        num_layers=num_layers,
        num_heads=hidden_dim // head_dim,
        head_dim=head_dim,
        patch_size=patch_size,
        text_embed_dim=shapes["patch_embed.text_proj.weight"][1],
        time_embed_dim=shapes["time_embedding.linear_1.weight"][0],
        ff_dim=shapes["transformer_blocks.0.ff.net.0.proj.weight"][0],
        attention_bias="transformer_blocks.0.attn1.to_q.bias" in shapes,
        max_text_length=max_text_length,
        sample_frames=sample[0],
        sample_height=sample[1],
        sample_width=sample[2],
        learned_positions=positions is not None,
        cross_attn_interval=_interval(num_layers, _count(shapes, "perceiver_cross_attention"), config),
        **_heads("cross_attn", cross_attn_inner, config.get("cross_attn_dim_head"), 128),
        facial_extractor=_facial_extractor_config(shapes, config),
    )


def _require_consisid(shapes):
    required = (
        "patch_embed.proj.weight",
        "transformer_blocks.0.attn1.norm_q.weight",
        "local_facial_extractor.proj_out",
        "perceiver_cross_attention.0.to_q.weight",
    )
    if missing := [name for name in required if name not in shapes]:
        raise ConsisIDError(
            f"is not a ConsisID transformer: it looks like {describe_weights(shapes)} (no {missing[0]})"
        )


_SIGNATURES = {
    "a Stable Diffusion checkpoint": ("model.diffusion_model.", "cond_stage_model.", "first_stage_model."),
    "a plain CogVideoX transformer, without ConsisID's face modules": ("patch_embed.text_proj.weight",),
    "a ComfyUI-format CogVideoX transformer": ("blocks.0.norm1.linear.weight",),
    "a T5 text encoder": ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    "a CogVideoX VAE": ("decoder.conv_in.conv.weight",),
    "an image VAE": ("decoder.conv_in.weight",),
    "an EVA-CLIP model": ("visual.cls_token", "cls_token"),
    "a BiSeNet face parser": ("cp.resnet.conv1.weight",),
    "a LoRA": ("lora",),
}


def describe_weights(names):
    """What a state dict with these parameter names most likely is, for error messages."""
    if "local_facial_extractor.proj_out" in names:
        return "a ConsisID transformer"
    for description, keys in _SIGNATURES.items():
        if any(name.startswith(key) or (key == "lora" and ".lora_" in name) for name in names for key in keys):
            return description
    first = ", ".join(sorted(names)[:3])
    return f"weights of another kind (first names: {first})" if first else "an empty file"


def _count(shapes, prefix):
    """Number of numbered children: names `prefix.<i>.…`."""
    return 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith(prefix + "."))


def _heads(name, inner_dim, head_dim, default):
    """Head count and size for an attention of this inner width, by the config's head size if that divides it."""
    head_dim = next((d for d in (head_dim, default) if d and inner_dim % d == 0), inner_dim)
    return {f"{name}_heads": inner_dim // head_dim, f"{name}_head_dim": head_dim}


def _interval(num_layers, num_cross_attn, config):
    for interval in (config.get("cross_attn_interval"), 2, num_layers // num_cross_attn):
        if interval and interval * num_cross_attn == num_layers:
            return interval
    raise ConsisIDError(
        f"has {num_cross_attn} face attention modules for {num_layers} blocks, which is no whole interval"
    )


def _sample_size(positions, patch_size, config):
    """Text length and latent (frames, height, width) that the position table stands for."""
    default = TransformerConfig()
    stated = (
        (config.get("sample_frames", 49) - 1) // config.get("temporal_compression_ratio", 4) + 1,
        config.get("sample_height", default.sample_height),
        config.get("sample_width", default.sample_width),
    )
    released = (default.sample_frames, default.sample_height, default.sample_width)
    text_length = config.get("max_text_seq_length", default.max_text_length)
    if positions is None:
        return text_length, stated
    for frames, height, width in (stated, released):
        if text_length + frames * (height // patch_size) * (width // patch_size) == positions[1]:
            return text_length, (frames, height, width)
    raise ConsisIDError(
        f"has a position table of {positions[1]} tokens, which fits neither the released size 480x720x49 nor its "
        "config; keep the checkpoint's config.json beside the weights"
    )


def _facial_extractor_config(shapes, config):
    prefix = "local_facial_extractor."
    vit_dim, output_dim = shapes[prefix + "proj_out"]
    inner_dim = shapes[prefix + "layers.0.0.to_q.weight"][0]
    heads = _heads("lfe", inner_dim, config.get("LFE_dim_head"), 64)
    return FacialExtractorConfig(
        id_dim=shapes[prefix + "id_embedding_mapping.0.weight"][1],
        vit_dim=vit_dim,
        depth=1 + max(int(name.split(".")[2]) for name in shapes if name.startswith(prefix + "layers.")),
        num_scales=len({name.split(".")[1] for name in shapes if name.startswith(prefix + "mapping_")}),
        heads=heads["lfe_heads"],
        head_dim=heads["lfe_head_dim"],
        num_id_tokens=shapes[prefix + "id_embedding_mapping.6.weight"][0] // vit_dim,
        num_queries=shapes[prefix + "latents"][1],
        output_dim=output_dim,
        ff_mult=shapes[prefix + "layers.0.1.1.weight"][0] // vit_dim,
    )


def diffusers_config(config):
    """The config keys with which diffusers' `ConsisIDTransformer3DModel` builds a net of this TransformerConfig."""
    face = config.facial_extractor
    return {
        "_class_name": "ConsisIDTransformer3DModel", "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim, "in_channels": config.in_channels, "out_channels": config.out_channels,
        "num_layers": config.num_layers, "time_embed_dim": config.time_embed_dim,
        "text_embed_dim": config.text_embed_dim, "attention_bias": config.attention_bias,
        "patch_size": config.patch_size, "sample_width": config.sample_width, "sample_height": config.sample_height,
        "sample_frames": config.sample_frames * 4 - 3, "temporal_compression_ratio": 4,
        "max_text_seq_length": config.max_text_length, "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": config.learned_positions, "is_train_face": True, "is_kps": False,
        "cross_attn_interval": config.cross_attn_interval, "cross_attn_dim_head": config.cross_attn_head_dim,
        "cross_attn_num_heads": config.cross_attn_heads, "LFE_id_dim": face.id_dim, "LFE_vit_dim": face.vit_dim,
        "LFE_depth": face.depth, "LFE_dim_head": face.head_dim, "LFE_num_heads": face.heads,
        "LFE_num_id_token": face.num_id_tokens, "LFE_num_querie": face.num_queries,
        "LFE_output_dim": face.output_dim, "LFE_ff_mult": face.ff_mult, "LFE_num_scale": face.num_scales,
    }  # fmt: skip


def check_names(shapes, expected, limit=10):
    """Raise ConsisIDError naming missing, unknown and mis-shaped parameters (first ten and a count)."""
    missing = [name for name in expected if name not in shapes]
    unknown = [name for name in shapes if name not in expected]
    misshapen = [
        f"{name} {tuple(shapes[name])} instead of {tuple(expected[name])}"
        for name in expected
        if name in shapes and tuple(shapes[name]) != tuple(expected[name])
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:limit])}{', …' if len(names) > limit else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of the wrong shape", misshapen))
        if names
    ]
    if problems:
        raise ConsisIDError("does not fit: parameters " + "; ".join(problems))
