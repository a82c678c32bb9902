"""Dimensions of the ConsisID transformer, and where the identity enters it. The defaults are those of the released
ConsisID-preview weights."""

from dataclasses import dataclass, field

from ..errors import ConsisIDError

INJECTIONS = ("block_output", "between", "block_input", "before_attention")
"""Where image tokens attend the identity tokens: `TransformerConfig.injection`."""

INJECTION_PLANS = {
    "a": {"injection": "between", "low_frequency": False},
    "b": {"injection": "between", "high_frequency": False, "keypoints": True},
    "c": {"injection": "between", "keypoints": True},
    "d": {"injection": "between"},
    "e": {"injection": "block_output", "keypoints": True},
    "f": {"injection": "block_input", "keypoints": True},
    "g": {"injection": "before_attention", "low_frequency": False},
}
"""The plans of the paper's Table 3 (its Figure 10) as fields of TransformerConfig:

| plan | low frequency | key points | high frequency | where the high frequency enters | the paper's result |
|---|---|---|---|---|---|
| a | - | - | yes | between attention and feed-forward | identity lost |
| b | yes | yes | - | | |
| c | yes | yes | yes | between attention and feed-forward | the best: the paper's final model |
| d | yes | - | yes | between attention and feed-forward | |
| e | yes | yes | yes | output of the block | |
| f | yes | yes | yes | input of the block | training unstable |
| g | - | - | yes | before the attention, after its norm | training unstable |

The released weights are of no plan: both halves, without key points, at the output of the block.
"""


@dataclass(frozen=True)
class FacialExtractorConfig:
    """Local facial extractor: a Q-former over five EVA-CLIP scales (paper section 3.3; LFE_* keys of diffusers)."""

    id_dim: int = 1280
    """Width of the identity vector: 512 of the face recogniser, 768 of the EVA tower."""
    vit_dim: int = 1024
    """Width of the EVA tower's hidden states, and of the extractor itself."""
    depth: int = 10
    """Attention layers in all, spread evenly over the scales."""
    num_scales: int = 5
    heads: int = 16
    head_dim: int = 64
    num_id_tokens: int = 5
    num_queries: int = 32
    output_dim: int = 2048
    ff_mult: int = 4


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer: CogVideoX-5B-I2V plus the face modules. Sizes of latents are in latent pixels."""

    in_channels: int = 32
    """16 noise channels, then 16 channels of image latents."""
    out_channels: int = 16
    num_layers: int = 42
    num_heads: int = 48
    head_dim: int = 64
    patch_size: int = 2
    text_embed_dim: int = 4096
    time_embed_dim: int = 512
    ff_dim: int = 12288
    attention_bias: bool = True
    max_text_length: int = 226
    sample_width: int = 90
    sample_height: int = 60
    sample_frames: int = 13
    """Latent frames (diffusers counts video frames here: 49)."""
    learned_positions: bool = True
    """Whether a learned position table is added besides the rotary embedding."""
    cross_attn_interval: int = 2
    """Identity tokens are attended in blocks 0, interval, 2 * interval, ..."""
    cross_attn_heads: int = 16
    cross_attn_head_dim: int = 128
    injection: str = "block_output"
    """One of INJECTIONS: the block's output or input; between its attention and its feed-forward, which reads what was
    added; or what the attention alone reads, after its norm."""
    low_frequency: bool = True
    """Whether the image latents carry the face. If not they are zeros, in training and after."""
    high_frequency: bool = True
    """Whether identity tokens are attended. If not the face modules are there but untrained, and not used."""
    keypoints: bool = False
    """Whether the second latent frame of the image latents carries the drawn key points (diffusers' `is_kps`)."""
    facial_extractor: FacialExtractorConfig = field(default_factory=FacialExtractorConfig)

    def __post_init__(self):
        if self.injection not in INJECTIONS:
            raise ConsisIDError(f"injection {self.injection!r} is none of {', '.join(INJECTIONS)}.")
        if self.cross_attn_interval < 1:
            raise ConsisIDError(f"cross_attn_interval {self.cross_attn_interval} must be 1 or more.")

    @property
    def hidden_dim(self) -> int:
        """Width of a token."""
        return self.num_heads * self.head_dim

    @property
    def base_grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches that the position table was trained for."""
        return self.sample_frames, self.sample_height // self.patch_size, self.sample_width // self.patch_size
