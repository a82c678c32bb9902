"""Dimensions of the nets from the shapes of their parameters.

What shapes cannot tell of the transformer (head sizes of the face modules, the injection interval, the size that the
position table was trained at) comes from diffusers' config keys where they agree with the shapes, else from the
released defaults: the released config carries stale keys. What the weights were trained with, the plan of injection, is
in no shape: a config that says nothing of it means the release's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import WeightsError
from ..model.config import INJECTIONS, FacialExtractorConfig, TransformerConfig
from .fit import describe_weights

T5_VOCABULARY = 32128

_PLAN_KEYS = ("injection", "low_frequency", "high_frequency")
"""Of the config, besides diffusers' own `is_kps`."""

Shapes = Mapping[str, Sequence[int]]
"""Parameter name -> shape."""


def infer_transformer_config(shapes: Shapes, config: Mapping | None = None) -> TransformerConfig:
    """The TransformerConfig of a state dict.

    Args:
        shapes: of its parameters.
        config: diffusers' config keys, if known; used only where they fit the shapes.

    Raises:
        WeightsError: saying what the weights are instead, if they are not a ConsisID transformer.
    """
    plan = _plan(config or {})
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
        **plan,
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
        raise WeightsError(f"is not a ConsisID transformer: it looks like {describe_weights(shapes)} (no {missing[0]})")


def _plan(config):
    """What the config says of the identity's injection, as fields of TransformerConfig."""
    default = TransformerConfig()
    plan = {name: config.get(name, getattr(default, name)) for name in _PLAN_KEYS}
    plan["keypoints"] = config.get("is_kps") is True
    if plan["injection"] not in INJECTIONS or not all(isinstance(plan[name], bool) for name in _PLAN_KEYS[1:]):
        stated = ", ".join(f"{name} {plan[name]!r}" for name in _PLAN_KEYS)
        raise WeightsError(
            f"has a config with {stated}, of which this version of the pack knows {', '.join(INJECTIONS)}, and true or "
            "false for the others: update the pack, or correct the config if it was written by hand"
        )
    return plan


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
    raise WeightsError(
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
    raise WeightsError(
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


def diffusers_config(config: TransformerConfig) -> dict:
    """The config keys with which diffusers' `ConsisIDTransformer3DModel` builds a net of this TransformerConfig.

    Where the identity enters as in the released weights there are no others, so that diffusers warns of the rest.
    """
    face = config.facial_extractor
    default = TransformerConfig()
    plan = {name: getattr(config, name) for name in _PLAN_KEYS if getattr(config, name) != getattr(default, name)}
    return {
        "_class_name": "ConsisIDTransformer3DModel", "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim, "in_channels": config.in_channels, "out_channels": config.out_channels,
        "num_layers": config.num_layers, "time_embed_dim": config.time_embed_dim,
        "text_embed_dim": config.text_embed_dim, "attention_bias": config.attention_bias,
        "patch_size": config.patch_size, "sample_width": config.sample_width, "sample_height": config.sample_height,
        "sample_frames": config.sample_frames * 4 - 3, "temporal_compression_ratio": 4,
        "max_text_seq_length": config.max_text_length, "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": config.learned_positions, "is_train_face": True,
        "is_kps": config.keypoints, "cross_attn_interval": config.cross_attn_interval,
        "cross_attn_dim_head": config.cross_attn_head_dim, "cross_attn_num_heads": config.cross_attn_heads,
        "LFE_id_dim": face.id_dim, "LFE_vit_dim": face.vit_dim,
        "LFE_depth": face.depth, "LFE_dim_head": face.head_dim, "LFE_num_heads": face.heads,
        "LFE_num_id_token": face.num_id_tokens, "LFE_num_querie": face.num_queries,
        "LFE_output_dim": face.output_dim, "LFE_ff_mult": face.ff_mult, "LFE_num_scale": face.num_scales,
        **plan,
    }  # fmt: skip


def infer_vae_config(shapes: Shapes) -> dict:
    """Constructor arguments of `model.vae.CogVideoXVAE`, also diffusers' names.

    Raises:
        WeightsError: saying what the weights are instead, if they are not a CogVideoX VAE.
    """
    required = ("encoder.conv_out.conv.weight", "decoder.mid_block.resnets.0.norm1.conv_y.conv.weight")
    if missing := [name for name in required if name not in shapes]:
        raise WeightsError(f"is not a CogVideoX VAE: it looks like {describe_weights(shapes)} (no {missing[0]})")
    blocks = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down_blocks."))
    resnets = {name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")}
    channels = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight"][0] for i in range(blocks)]
    return {
        "block_out_channels": tuple(channels),
        "latent_channels": shapes["decoder.conv_in.conv.weight"][1],
        "layers_per_block": len(resnets),
    }


def infer_t5_config(shapes: Shapes, config: Mapping | None = None) -> dict:
    """ComfyUI's T5 config, with the number of tokens that every prompt is padded or cut to as `max_text_seq_length`.

    Args:
        shapes: of its parameters.
        config: transformers' config keys, if known. Of them only `max_text_seq_length` is read, which is ours: an
            encoder without it is the release's, whose transformer was trained at 226.

    Raises:
        WeightsError: the parameters are not T5 v1.1's, or the length is no positive number.
    """
    block = "encoder.block.0.layer"
    required = ("shared.weight", f"{block}.1.DenseReluDense.wi_0.weight")
    if missing := [name for name in required if name not in shapes]:
        likeness = describe_weights(shapes)
        raise WeightsError(f"is not a T5 v1.1 text encoder: it looks like {likeness} (no {missing[0]})")
    vocab_size, width = shapes["shared.weight"]
    if vocab_size != T5_VOCABULARY:
        raise WeightsError(
            f"is not a T5 v1.1 text encoder: its vocabulary has {vocab_size} entries instead of {T5_VOCABULARY}, as in "
            "UMT5 and mT5"
        )
    length = (config or {}).get("max_text_seq_length", TransformerConfig().max_text_length)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise WeightsError(f"has a config with max_text_seq_length {length!r}, which is no number of tokens")
    heads = shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"][1]
    return {
        "model_type": "t5",
        "is_gated_act": True,
        "dense_act_fn": "gelu_pytorch_tanh",
        "num_layers": 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.block.")),
        "d_model": width,
        "d_ff": shapes[f"{block}.1.DenseReluDense.wi_0.weight"][0],
        "d_kv": shapes[f"{block}.0.SelfAttention.q.weight"][0] // heads,
        "num_heads": heads,
        "vocab_size": vocab_size,
        "max_text_seq_length": length,
    }


def t5_shapes(config: Mapping) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape of a T5 v1.1 encoder. config: as `infer_t5_config` gives it."""
    width, inner, hidden = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    shapes = {"shared.weight": (config["vocab_size"], width), "encoder.final_layer_norm.weight": (width,)}
    for block in (f"encoder.block.{number}.layer" for number in range(config["num_layers"])):
        shapes |= {f"{block}.0.SelfAttention.{name}.weight": (inner, width) for name in "qkv"}
        shapes[f"{block}.0.SelfAttention.o.weight"] = (width, inner)
        shapes |= {f"{block}.1.DenseReluDense.{name}.weight": (hidden, width) for name in ("wi_0", "wi_1")}
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (width, hidden)
        shapes |= {f"{block}.{number}.layer_norm.weight": (width,) for number in (0, 1)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, config["num_heads"])
    return shapes
