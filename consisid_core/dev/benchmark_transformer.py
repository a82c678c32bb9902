"""Our transformer against diffusers', for the benchmark: a forward, a step, where the time goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..checkpoint.net_config import diffusers_config
from ..model.config import FacialExtractorConfig, TransformerConfig
from ..model.facial_extractor import PerceiverAttention
from ..model.rope import rotary_table
from ..model.transformer import ConsisIDTransformer, JointAttention
from .measuring import (
    AGREEMENT,
    COMPUTE_DTYPE,
    Row,
    median_wall,
    memory_row,
    require_agreement,
    synchronize,
    timed_rows,
    timings,
)  # fmt: skip
from .reference import importing_diffusers

SIZES = {
    "small": TransformerConfig(
        num_layers=2, num_heads=3, time_embed_dim=32, text_embed_dim=64, ff_dim=768, max_text_length=16,
        sample_width=12, sample_height=8, sample_frames=3, cross_attn_heads=1,
        facial_extractor=FacialExtractorConfig(id_dim=80, vit_dim=64, depth=5, heads=1, output_dim=128),
    ),
    "mid": TransformerConfig(
        num_layers=8, num_heads=18, text_embed_dim=1536, ff_dim=4608, sample_width=24, sample_height=16,
        cross_attn_heads=6,
        facial_extractor=FacialExtractorConfig(id_dim=480, vit_dim=384, heads=6, output_dim=768),
    ),
    "full": TransformerConfig(),
}  # fmt: skip
EVA_TOKENS = {"small": 10, "mid": 65, "full": 577}

FP8 = torch.float8_e4m3fn

# The part of a forward that a module's own operations belong to; the scaled dot product and the face have their own.
PARTS = ("linear layers", "attention", "norms", "rotary", "face attention", "rest")
# Of diffusers, which may be missing, the names.
PART_OF_CLASS = {
    PerceiverAttention.__name__: "face attention",
    "PerceiverCrossAttention": "face attention",
    JointAttention.__name__: "rotary",
    "Attention": "rotary",
    nn.Linear.__name__: "linear layers",
    nn.Conv2d.__name__: "linear layers",
    nn.LayerNorm.__name__: "norms",
}


class Float8Linear(nn.Linear):
    """Stores its weight in fp8 and casts it at use, as ComfyUI's layers do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features], in the type of x."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class FixedTokens(nn.Module):
    """Stands in for diffusers' facial extractor where the transformer alone is measured."""

    def __init__(self, tokens: torch.Tensor):
        super().__init__()
        self.register_buffer("tokens", tokens)

    def forward(self, id_embedding: torch.Tensor, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """The tokens, whatever the face."""
        return self.tokens


def build_pair(config: TransformerConfig, device: str, dtype: str) -> tuple[nn.Module, nn.Module]:
    """Our net and diffusers' with the same random weights, shared between them unless dtype is "fp8".

    Raises:
        ConsisIDError: diffusers does not import.
    """
    with importing_diffusers():
        from diffusers import ConsisIDTransformer3DModel
    with torch.device("meta"):
        theirs = ConsisIDTransformer3DModel.from_config(diffusers_config(config))
        operations = nn
        if dtype == "fp8":
            operations = SimpleNamespace(Linear=Float8Linear, Conv2d=nn.Conv2d, LayerNorm=nn.LayerNorm)
        ours = ConsisIDTransformer(config, operations=operations)
    theirs = theirs.to(COMPUTE_DTYPE[dtype]).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in theirs.state_dict().items():
        weight.normal_(generator=generator)
        if weight.ndim == 1:
            weight.mul_(0.1).add_("norm" in name and name.endswith("weight"))
        elif "pos_embedding" not in name:
            weight.div_(weight[0].numel() ** 0.5)
            if dtype == "fp8":  # Rounded once: which layers a net keeps in fp8 then makes no difference.
                weight.copy_(weight.to(FP8))
    ours.load_state_dict(theirs.state_dict(), assign=True)
    if dtype == "fp8":
        for layer in ours.modules():
            if isinstance(layer, Float8Linear):
                layer.weight.data = layer.weight.data.to(FP8)
        theirs.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=torch.bfloat16)
    return ours.requires_grad_(False).eval(), theirs.requires_grad_(False).eval()


class Contest:
    """Both nets and one set of inputs. Latents are [B, T, C, H, W] for diffusers, [B, C, T, H, W] for us."""

    def __init__(self, size: str, device: str, dtype: str):
        self.config = config = SIZES[size]
        self.device = device
        self.ours, self.theirs = build_pair(config, device, dtype)
        face, generator = config.facial_extractor, torch.Generator(device).manual_seed(1)

        def randn(*shape):
            return torch.randn(shape, generator=generator, device=device).to(COMPUTE_DTYPE[dtype])

        self.latents = randn(1, config.in_channels, config.sample_frames, config.sample_height, config.sample_width)
        self.text = randn(2, config.max_text_length, config.text_embed_dim)
        self.timestep = torch.tensor([500], device=device)
        self.face = randn(1, face.id_dim), [randn(1, EVA_TOKENS[size], face.vit_dim) for _ in range(face.num_scales)]
        self.tokens = self.ours.local_facial_extractor(*self.face)
        self.extractor, self.fixed_tokens = self.theirs.local_facial_extractor, FixedTokens(self.tokens)
        table = rotary_table(config.base_grid, config.base_grid, config.head_dim, device).squeeze(1)
        self.rotary = [part.repeat_interleave(2, dim=-1) for part in table.unbind(-1)]
        tokens = config.max_text_length + math.prod(config.base_grid)
        self.factors = randn(tokens, config.hidden_dim), randn(config.ff_dim, config.hidden_dim)

    def forward_of(self, net: nn.Module) -> torch.Tensor:
        """Velocity [1, C, T, H, W] by a net that is called as ours."""
        return net(self.latents, self.timestep, self.text[:1], self.tokens)

    def ours_predict(self, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Velocity [B, C, T, H, W]."""
        batch = len(latents)
        return self.ours(latents, self.timestep.expand(batch), text, self.tokens.expand(batch, -1, -1))

    def theirs_predict(self, latents: torch.Tensor, text: torch.Tensor, extractor: nn.Module) -> torch.Tensor:
        """Velocity [B, C, T, H, W], with this facial extractor."""
        self.theirs.local_facial_extractor = extractor
        id_embedding, eva_states = self.face
        return self.theirs(
            latents.transpose(1, 2), text, self.timestep.expand(len(latents)), image_rotary_emb=self.rotary,
            id_cond=id_embedding, id_vit_hidden=eva_states, return_dict=False,
        )[0].transpose(1, 2)  # fmt: skip

    def ours_forward(self) -> torch.Tensor:
        """The transformer alone."""
        return self.ours_predict(self.latents, self.text[:1])

    def theirs_forward(self) -> torch.Tensor:
        """The transformer alone, as ours."""
        return self.theirs_predict(self.latents, self.text[:1], self.fixed_tokens)

    def ours_both(self) -> torch.Tensor:
        """Unconditional and conditional velocity."""
        return self.ours_predict(self.latents.expand(2, -1, -1, -1, -1), self.text)

    def theirs_both(self) -> torch.Tensor:
        """With the facial extractor, which the reference runs at every step."""
        return self.theirs_predict(self.latents.expand(2, -1, -1, -1, -1), self.text, self.extractor)

    def ours_step(self) -> torch.Tensor:
        """A denoising step with guidance."""
        return guided(self.ours_both())

    def theirs_step(self) -> torch.Tensor:
        """A denoising step with guidance."""
        return guided(self.theirs_both())

    def matrix_product(self) -> torch.Tensor:
        """The widest product of a block: 2 * tokens * hidden_dim * ff_dim operations."""
        return F.linear(*self.factors)


def guided(velocity: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance of 6 from both velocities in one batch."""
    unconditional, conditional = velocity.chunk(2)
    return torch.lerp(unconditional, conditional, 6.0)


def check_agreement(contest: Contest, dtype: str) -> None:
    """Raise ConsisIDError unless both nets compute the same, before guidance multiplies the rounding."""
    for ours, theirs in ((contest.ours_forward, contest.theirs_forward), (contest.ours_both, contest.theirs_both)):
        require_agreement("nets", ours(), theirs(), AGREEMENT[dtype])


def time_by_part(net: nn.Module, call: Callable, device: str) -> dict[str, float]:
    """Seconds that one call spends in each of PARTS."""
    hooks = []
    for module in net.modules():
        part = next(filter(None, (PART_OF_CLASS.get(kind.__name__) for kind in type(module).mro())), None)
        if part is not None:
            scope = record_function(part)
            hooks.append(module.register_forward_pre_hook(lambda *_, scope=scope: scope.__enter__() and None))
            hooks.append(module.register_forward_hook(lambda *_, scope=scope: scope.__exit__(None, None, None)))
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    try:
        with profile(activities=activities, acc_events=True) as profiler:
            call()
            synchronize(device)
    finally:
        for hook in hooks:
            hook.remove()
    totals = dict.fromkeys(PARTS, 0.0)
    for event in profiler.events():
        if event.device_type == DeviceType.CPU:  # Kernels are counted with the operation that started them.
            microseconds = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
            totals[_part(event)] += microseconds / 1e6
    return totals


def _part(event):
    """Face attention as a whole; else the scaled dot product; else the innermost module."""
    scopes = []
    while event is not None:
        scopes.append(event.name)
        event = event.cpu_parent
    if "face attention" in scopes:
        return "face attention"
    if any("scaled_dot_product" in scope for scope in scopes):
        return "attention"
    return next((scope for scope in scopes if scope in PARTS), "rest")


def count_operations(call: Callable) -> int:
    """Floating-point operations of matrix products and attention."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(
        display=False, custom_mapping={on_cpu: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v)}
    )
    with counter:
        call()
    return counter.get_total_flops()


@torch.inference_mode()
def benchmark(size: str, device: str, dtype: str, repeats: int) -> tuple[list[Row], int, float]:
    """Measure one size.

    Returns:
        Rows, operations per forward, operations per second of a matrix product. A row is (what, unit, ours, diffusers',
        diffusers' / ours); for a part of a forward the quotient is that of its times.

    Raises:
        ConsisIDError: the nets disagree, or diffusers does not import.
    """
    contest = Contest(size, device, dtype)
    check_agreement(contest, dtype)
    calls = [contest.ours_forward, contest.theirs_forward, contest.ours_step, contest.theirs_step]
    *times, product = timings([*calls, contest.matrix_product], device, repeats)
    forward, theirs_forward, step, theirs_step = times

    rows = []
    pairs = zip(
        timed_rows("forward, transformer alone", forward, theirs_forward, device),
        timed_rows("denoising step with CFG", step, theirs_step, device),
        strict=True,
    )
    rows += [row for pair in pairs for row in pair]
    rows.append(memory_row("a step", contest.ours_step, contest.theirs_step, device))

    parts = time_by_part(contest.ours, contest.ours_forward, device)
    theirs_parts = time_by_part(contest.theirs, contest.theirs_forward, device)
    for part in PARTS:
        shares = [100 * p[part] / sum(p.values()) for p in (parts, theirs_parts)]
        rows.append((f"{part}, of a forward", "%", *shares, theirs_parts[part] / parts[part]))

    rate = 2 * contest.factors[0].numel() * len(contest.factors[1]) / median_wall(product)
    operations = count_operations(contest.ours_forward)
    fractions = [100 * operations / median_wall(t) / rate for t in (forward, theirs_forward)]
    rows.append(("rate of a forward, of a matrix product's", "%", *fractions, fractions[1] / fractions[0]))
    return rows, operations, rate


def compare_transformer(size: str, device: str, dtype: str, repeats: int) -> tuple[str, list[Row]]:
    """`benchmark` as the command prints it: (what was measured, rows)."""
    rows, operations, rate = benchmark(size, device, dtype, repeats)
    config = SIZES[size]
    return (
        f"{config.num_layers} layers of width {config.hidden_dim}, {config.max_text_length} + "
        f"{math.prod(config.base_grid)} tokens, {operations / 1e12:.3g} TFLOP per forward; a matrix product reaches "
        f"{rate / 1e12:.3g} TFLOP/s"
    ), rows
