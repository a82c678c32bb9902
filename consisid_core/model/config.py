"""Dimensions of the ConsisID transformer. The defaults are those of the released ConsisID-preview weights."""

from dataclasses import dataclass, field


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
    """Identity tokens are attended after blocks 0, interval, 2 * interval, ..."""
    cross_attn_heads: int = 16
    cross_attn_head_dim: int = 128
    facial_extractor: FacialExtractorConfig = field(default_factory=FacialExtractorConfig)

    @property
    def hidden_dim(self) -> int:
        """Width of a token."""
        return self.num_heads * self.head_dim

    @property
    def base_grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches that the position table was trained for."""
        return self.sample_frames, self.sample_height // self.patch_size, self.sample_width // self.patch_size
