"""The nets of the small default: the pack's own classes at small width, and how each begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...face.eva_clip import EvaClipVisual, preprocess
from ...model.attention import scaled_dot_product_attention
from ...model.config import FacialExtractorConfig, TransformerConfig
from ...model.facial_extractor import LocalFacialExtractor
from ...model.transformer import ConsisIDTransformer

EMBEDDING = 512
"""Numbers of the recogniser's embedding."""
GREY_SIZE = 112
"""Side of the grey crop that the image tower looks at, in pixels."""
_PATCH = 14
_TOWER_DEPTH, _TOWER_MLP, _TOWER_OUTPUT = 21, 170, 32
"""The shallowest tower that has the five hidden states."""


@dataclass(frozen=True)
class Sizes:
    """Everything that decides a shape. The defaults are those of the set that is shipped; tests take smaller ones."""

    pixels: int = 128
    """Side of a frame, a multiple of 16."""
    frames: int = 17
    """Of a clip, 4n + 1."""
    text_length: int = 64
    text_width: int = 128
    layers: int = 8
    heads: int = 4
    """Of 64 channels each."""
    face_width: int = 64
    """Of the image tower and the facial extractor, a multiple of 64."""
    token_width: int = 128
    """Of an identity token."""
    vae_widths: tuple[int, ...] = (64, 64, 64, 96)
    """Multiples of 32. Group norm at width 32 would remove the absolute colour, so the first is 64."""
    parser_width: int = 8

    @property
    def latent(self) -> int:
        """Side of a latent frame."""
        return self.pixels // 8

    @property
    def latent_frames(self) -> int:
        """Of a clip."""
        return (self.frames - 1) // 4 + 1

    @property
    def transformer(self) -> TransformerConfig:
        """Plan d of the paper: both halves, the high frequency between attention and feed-forward, no key points."""
        return TransformerConfig(
            num_layers=self.layers,
            num_heads=self.heads,
            head_dim=64,
            text_embed_dim=self.text_width,
            time_embed_dim=128,
            ff_dim=self.heads * 256,
            max_text_length=self.text_length,
            sample_width=self.latent,
            sample_height=self.latent,
            sample_frames=self.latent_frames,
            cross_attn_heads=4,
            cross_attn_head_dim=64,
            injection="between",
            facial_extractor=FacialExtractorConfig(
                id_dim=EMBEDDING + _TOWER_OUTPUT,
                vit_dim=self.face_width,
                heads=4,
                head_dim=16,
                output_dim=self.token_width,
            ),
        )

    def text_encoder(self, vocabulary: int) -> dict:
        """transformers' T5 config of so many rows."""
        return {
            "architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": self.text_width, "d_kv": 32,
            "d_ff": 2 * self.text_width, "num_layers": 2, "num_heads": 4, "vocab_size": vocabulary,
            "feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new", "pad_token_id": 0,
            "eos_token_id": 1, "tie_word_embeddings": False,
        }  # fmt: skip


class Identity(nn.Module):
    """Image tower and facial extractor: everything between a face and its tokens."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tower = EvaClipVisual(GREY_SIZE, _PATCH, sizes.face_width, _TOWER_DEPTH, _TOWER_MLP, _TOWER_OUTPUT)
        self.extractor = LocalFacialExtractor(sizes.transformer.facial_extractor, scaled_dot_product_attention)
        with torch.no_grad():
            self.extractor.latents.normal_()
            self.extractor.proj_out.normal_(0, sizes.face_width**-0.5)

    def forward(self, embedding: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
        """
        Args:
            embedding: [B, 512] of the recogniser, as it gives it.
            grey: [B, 112, 112] whitened crop, 0..255.

        Returns:
            [B, 32, token_width].
        """
        pictures = (grey.float() / 255).unsqueeze(1).expand(-1, 3, -1, -1)
        vector, hidden = self.tower(preprocess(pictures, GREY_SIZE))
        return self.extractor(torch.cat((embedding, vector.to(embedding)), dim=-1), hidden)


class TextAndVideo(nn.Module):
    """Text encoder and transformer as one, which are trained together. The transformer's own extractor is not used:
    identity tokens come from `Identity`."""

    def __init__(self, sizes: Sizes, vocabulary: int) -> None:
        from transformers import T5Config, T5EncoderModel

        super().__init__()
        self.text = T5EncoderModel(T5Config(**sizes.text_encoder(vocabulary), dropout_rate=0.0))
        self.transformer = ConsisIDTransformer(sizes.transformer)
        del self.transformer.local_facial_extractor
        self._begin()

    def forward(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        text_ids: torch.Tensor,
        image: torch.Tensor,
        tokens: torch.Tensor | None,
    ) -> torch.Tensor:
        """The velocity [B, 16, T, h, w].

        Args:
            noisy: [B, 16, T, h, w]; timestep: [B].
            text_ids: [B, L] of `Vocabulary`.
            image: [B, 16, h, w] latents of the reference, zeros for none.
            tokens: [B, 32, token_width], or None for none.
        """
        images = torch.zeros_like(noisy)
        images[:, :, 0] = image
        text = self.text(input_ids=text_ids).last_hidden_state
        return self.transformer(torch.cat((noisy, images), dim=1), timestep, text, tokens)

    @torch.no_grad()
    def _begin(self):
        """Every block begins as the identity (adaLN-Zero), so that the depth costs nothing at first."""
        net = self.transformer
        self.text.shared.weight.normal_(0, 0.5)
        net.patch_embed.pos_embedding.normal_(0, 0.02)
        adaptive = [norm for block in net.transformer_blocks for norm in (block.norm1, block.norm2)]
        for norm in (*adaptive, net.norm_out):
            norm.linear.weight.zero_()
            norm.linear.bias.zero_()
        net.proj_out.weight.mul_(0.1)
        net.proj_out.bias.zero_()
