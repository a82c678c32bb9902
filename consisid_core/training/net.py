"""The transformer that a run trains: read, completed or new, with its LoRA, in the number formats of training."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.fit import about, load_exactly
from ..checkpoint.net_config import infer_transformer_config
from ..checkpoint.nets import transformer_prefix, transformer_weights
from ..checkpoint.reading import read_checkpoint
from ..errors import ConsisIDError
from ..model.config import FacialExtractorConfig, TransformerConfig
from ..model.transformer import ConsisIDTransformer
from .config import Lora, Memory, Stage, TrainingConfig

log = logging.getLogger("consisid")

FACE_MODULES = ("local_facial_extractor.", "perceiver_cross_attention.")
"""How the names of the parameters begin that CogVideoX has not."""


class Operations:
    """torch.nn's layers as the net takes them, with a linear layer whose weights may be frozen in float8."""

    Conv2d, LayerNorm = nn.Conv2d, nn.LayerNorm

    class Linear(nn.Linear):
        """Widens float8 weights as it runs."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """[..., in] -> [..., out]."""
            if self.weight.dtype == torch.float8_e4m3fn:
                bias = None if self.bias is None else self.bias.to(torch.bfloat16)
                return F.linear(x.to(torch.bfloat16), self.weight.to(torch.bfloat16), bias)
            return super().forward(x)


class Denoiser(nn.Module):
    """Facial extractor and transformer as one module, so that DDP and FSDP see one forward pass."""

    def __init__(self, transformer: ConsisIDTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        id_embedding: torch.Tensor | None = None,
        hidden_states: torch.Tensor | None = None,
        kept_tokens: torch.Tensor | None = None,
        identity_scale: torch.Tensor | float = 1.0,
    ) -> torch.Tensor:
        """The velocity [B, 16, T, h, w] of `ConsisIDTransformer.forward`.

        Args:
            latents: [B, 32, T, h, w].
            timestep: [B].
            text: [B, L, text_embed_dim].
            id_embedding: [B, 1280], or None for no identity tokens; hidden_states: [B, 5, N, vit_dim].
            kept_tokens: [B, 32] 0 or 1.
            identity_scale: [B] 0 or 1.
        """
        if id_embedding is None:
            return self.transformer(latents, timestep, text)
        tokens = self.transformer.local_facial_extractor(id_embedding, hidden_states.unbind(1))
        tokens = tokens * kept_tokens.to(tokens).unsqueeze(-1)
        return self.transformer(latents, timestep, text, tokens, identity_scale)


def build_net(config: TrainingConfig) -> ConsisIDTransformer:
    """The net as a run starts with it: on the CPU, with the LoRA's layers if it has any.

    Weights that no file gives are drawn from the run's seed.

    Raises:
        ConsisIDError: the file is missing, damaged, no transformer, quantised, or does not fit `[net]`, or the blocks
            are no whole intervals of the identity's attention.
    """
    file = config.weights.transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        net = _read_net(file, config.net) if file else _new_net(net_config(TransformerConfig(), config.net))
        _check_intervals(net.config)
        _check_halves(net.config, config)
        if config.lora.rank:
            add_lora(net, config.lora)
    return net


def _check_intervals(net):
    """The reference rounds the number of attentions down, and lacks one where its last blocks begin an interval."""
    layers, interval = net.num_layers, net.cross_attn_interval
    if layers % interval:
        raise ConsisIDError(
            f"num_layers {layers} is no multiple of cross_attn_interval {interval}, in whose first block the identity "
            f"is attended. Set num_layers = {layers - layers % interval or interval}, or another interval, in [net]."
        )


def _check_halves(net, config):
    """A file of a coarse stage, or of a plan without the high frequency, says that its face modules are untrained."""
    attends = [name for name, stage in config.stages.items() if stage.steps and stage.identity_tokens]
    if attends and not net.high_frequency and "high_frequency" not in config.net:
        raise ConsisIDError(
            f"{config.weights.transformer} was trained without the high-frequency half, and stage {attends[0]} attends "
            "identity tokens. Set high_frequency = true in [net] to train that half, or false to go on without it."
        )


def net_config(base: TransformerConfig, changes: dict[str, Any]) -> TransformerConfig:
    """A TransformerConfig with the fields of `[net]`.

    Raises:
        ConsisIDError: a field is unknown.
    """
    changes = dict(changes)
    try:
        if face := changes.pop("facial_extractor", None):
            changes["facial_extractor"] = replace(base.facial_extractor, **face)
        return replace(base, **changes)
    except TypeError:
        known = {*vars(base), *(f"facial_extractor.{name}" for name in vars(base.facial_extractor))}
        stated = {*changes, *(f"facial_extractor.{name}" for name in face or {})} - {"facial_extractor"}
        raise ConsisIDError(
            f"[net] has no key {', '.join(sorted(stated - known))}. It may have {', '.join(sorted(known))}."
        ) from None


def add_lora(net: nn.Module, lora: Lora) -> None:
    """Put low-rank layers beside the targets (`train.py:636`); their second matrix is zero, so nothing changes yet.

    Raises:
        ConsisIDError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConsisIDError(
            f"Training a LoRA needs peft, which does not import here ({error}): pip install peft"
        ) from None
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets)
    try:
        inject_adapter_in_model(settings, net)
    except ValueError:
        raise ConsisIDError(
            f"No layer of the transformer ends in one of lora.targets ({', '.join(lora.targets)}). Take those of the "
            "preset: to_q, to_k, to_v, to_out.0."
        ) from None
    for name, parameter in net.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()


def factor(name: str, patterns: dict[str, float]) -> float:
    """Factor on the learning rate of a parameter: of the first pattern that fits, 0 for none."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), 0.0)


def learning_names(net: ConsisIDTransformer, stage: Stage) -> list[str]:
    """Parameters that a stage trains; of the face modules none where it attends no identity tokens."""
    reads_face = stage.identity_tokens and net.config.high_frequency
    return [
        name
        for name, _ in net.named_parameters()
        if factor(name, stage.train) > 0 and (reads_face or not name.startswith(FACE_MODULES))
    ]


def trained_names(net: ConsisIDTransformer, stages: Mapping[str, Stage]) -> list[str]:
    """Parameters that any stage trains, which is what checkpoints hold.

    Raises:
        ConsisIDError: a stage trains nothing.
    """
    trained = set()
    for stage_name, stage in stages.items():
        learning = learning_names(net, stage) if stage.steps else []
        if stage.steps and not learning:
            raise ConsisIDError(
                f"Stage {stage_name} trains nothing: no parameter that it uses fits a pattern of "
                f"stages.{stage_name}.train with a factor above 0."
            )
        trained |= set(learning)
    return [name for name, _ in net.named_parameters() if name in trained]


def set_formats(
    module: nn.Module, name: str, trained: Collection[str], learning: Collection[str], memory: Memory
) -> None:
    """Give the parameters of a module of the net the number formats of `Memory`, and freeze what does not learn.

    Args:
        module: may be the whole net; name: its own in the net, "" for that.
        trained: of `trained_names`.
        learning: those of them that the present stage trains.
    """
    for path, part in module.named_modules():
        for own, parameter in part.named_parameters(recurse=False):
            full_name = clean_name(".".join(filter(None, (name, path, own))))
            is_trained = full_name in trained
            parameter.requires_grad_(full_name in learning)
            if memory.precision == "float32" or (is_trained and memory.precision == "mixed"):
                dtype = torch.float32
            elif (
                not is_trained and memory.frozen == "float8" and isinstance(part, Operations.Linear) and own == "weight"
            ):
                dtype = torch.float8_e4m3fn
            else:
                dtype = torch.bfloat16
            parameter.data = parameter.data.to(dtype)


def clean_name(name: str) -> str:
    """A parameter's name without what DDP, checkpointing and `Denoiser` put into it."""
    for part in ("_checkpoint_wrapped_module.", "_orig_mod."):
        name = name.replace(part, "")
    return name.removeprefix("module.").removeprefix("transformer.")


def _read_net(file, changes):
    checkpoint = read_checkpoint(Path(file))
    with about(file, "Name a folder or file of ConsisID's or CogVideoX-5B-I2V's transformer"):
        prefix = transformer_prefix(checkpoint.tensors)
        has_face = any(name.startswith(prefix + FACE_MODULES[0]) for name in checkpoint.tensors)
        if not has_face:
            return _completed(checkpoint, prefix, changes)
        weights = transformer_weights(checkpoint)
        if weights.quantization:
            raise ConsisIDError(f"{file} is quantised, which cannot be trained. Name the bf16 weights.")
        config = net_config(weights.config, changes)
        net = _empty_net(config)
        load_exactly(net, weights.state_dict)
    return net


def _completed(checkpoint, prefix, changes):
    """A CogVideoX transformer with new face modules."""
    tensors = {name.removeprefix(prefix): x for name, x in checkpoint.tensors.items() if name.startswith(prefix)}
    width = tensors["patch_embed.proj.weight"].shape[0]
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    # The reference makes them by the width of the net (`consisid_transformer_3d.py:590`).
    face = replace(FacialExtractorConfig(), output_dim=width // 3 * 2)
    own = {key: value for key, value in changes.items() if key in ("cross_attn_interval", "facial_extractor")}
    wanted = net_config(TransformerConfig(num_heads=1, head_dim=width, num_layers=blocks, facial_extractor=face), own)
    heads = {key: changes[key] for key in ("cross_attn_heads", "cross_attn_head_dim") if key in changes}
    shapes = {
        name: tuple(x.shape) for name, x in _empty_net(replace(wanted, **heads)).state_dict().items()
        if name.startswith(FACE_MODULES)
    }  # fmt: skip
    shapes |= {name: tuple(x.shape) for name, x in tensors.items()}
    inferred = infer_transformer_config(
        shapes, {**checkpoint.config, "cross_attn_interval": wanted.cross_attn_interval}
    )
    config = net_config(inferred, changes)
    net = _new_net(config)
    own_names = {name for name, _ in net.named_parameters() if not name.startswith(FACE_MODULES)}
    state_dict = {name: x for name, x in net.state_dict().items() if name not in own_names}
    load_exactly(net, state_dict | tensors)
    log.info("%s has no face modules: they start anew.", checkpoint.path)
    return net


def _empty_net(config):
    return ConsisIDTransformer(config, device="meta", operations=Operations)


def _new_net(config):
    """Weights as the reference draws them (`consisid_transformer_3d.py:107`); a position table starts at zero, beside
    the rotary embedding."""
    net = ConsisIDTransformer(config, dtype=torch.float32, operations=Operations)
    scale = config.facial_extractor.vit_dim**-0.5
    with torch.no_grad():
        net.local_facial_extractor.latents.normal_(std=scale)
        net.local_facial_extractor.proj_out.normal_(std=scale)
        if config.learned_positions:
            net.patch_embed.pos_embedding.zero_()
    return net
