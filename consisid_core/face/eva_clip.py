"""The image tower of EVA02-CLIP-L-14-336 (arXiv 2303.15389), which sees the fine detail of the face: one CLIP embedding
and five hidden states on the way to it. The network is timm's, the weights are `EVA02_CLIP_L_336_psz14_s6B.pt`.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import nn

from ..checkpoint.fit import describe_weights, load_exactly
from ..errors import WeightsError

HIDDEN_BLOCKS = (4, 8, 12, 16, 20)
"""Blocks, counted from 0, whose inputs are the five hidden states (consisid_eva_clip `eva_vit_model.py:623`)."""

_HEAD_DIM = 64
_ROPE_GRID = (16, 16)
"""Patch grid of the 224-pixel pretraining, to which rotary positions of any other grid are scaled."""

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_SHAPE_NAMES = (
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.0.attn.inner_attn_ln.weight",
    "blocks.0.mlp.w1.weight",
    "head.weight",
)


class EvaClipVisual(nn.Module):
    """EVA02-CLIP's image tower. The defaults are the released sizes; attention heads have 64 channels each."""

    def __init__(self, image_size=336, patch_size=14, width=1024, depth=24, mlp_dim=2730, output_dim=768):
        super().__init__()
        self.image_size = image_size
        """Side of the square image that `forward` takes."""
        self.tower = Eva(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=output_dim,
            global_pool="token",
            embed_dim=width,
            depth=depth,
            num_heads=width // _HEAD_DIM,
            mlp_ratio=(mlp_dim + 0.5) / width,  # timm multiplies by the width and rounds down
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
        )
        # Rotary positions are computed, not loaded: they must hold values even when the weights are still on meta.
        with torch.device("cpu"):
            self.tower.rope = RotaryEmbeddingCat(
                _HEAD_DIM, in_pixels=False, feat_shape=[image_size // patch_size] * 2, ref_feat_shape=_ROPE_GRID
            )

    @classmethod
    def from_state_dict(cls, state_dict):
        """The tower with these weights, in eval mode and in their dtype.

        state_dict: the released EVA-CLIP parameters, of which the image tower's (`visual.*`) are taken, or the image
        tower's alone, without the prefix; sizes are read from the shapes.
        Raises WeightsError if these are other weights.
        """
        prefix = "visual." if "visual.pos_embed" in state_dict else ""
        for name in _SHAPE_NAMES:
            if prefix + name not in state_dict:
                raise WeightsError(
                    f"is not an EVA02-CLIP model: {prefix}{name} is missing; "
                    f"it looks like {describe_weights(state_dict)}"
                )
        # Half-precision files may keep their norms in float32; the tower runs in one dtype.
        dtype = state_dict[prefix + "pos_embed"].dtype
        weights = {name.removeprefix(prefix): x.to(dtype) for name, x in state_dict.items() if name.startswith(prefix)}

        width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
        patches = weights["pos_embed"].shape[1] - 1  # the first position is the class token's
        grid = math.isqrt(patches)
        depth = sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in weights)
        if width % _HEAD_DIM or grid**2 != patches or depth <= HIDDEN_BLOCKS[-1]:
            raise WeightsError(
                f"does not fit: an EVA02-CLIP tower of width {width}, with {patches} patches and {depth} blocks, where "
                f"a multiple of {_HEAD_DIM}, a square and at least {HIDDEN_BLOCKS[-1] + 1} are needed"
            )
        with torch.device("meta"):
            visual = cls(
                image_size=grid * patch_size,
                patch_size=patch_size,
                width=width,
                depth=depth,
                mlp_dim=len(weights["blocks.0.mlp.w1.weight"]),
                output_dim=len(weights["head.weight"]),
            )
        load_exactly(visual.tower, checkpoint_filter_fn(weights, visual.tower))
        return visual.requires_grad_(False).eval()

    def forward(self, image):
        """Embed images that `preprocess` has made.

        image [B, 3, image_size, image_size], on any device and in any floating dtype.
        Returns the CLIP embedding [B, output_dim], of length 1, and the inputs of HIDDEN_BLOCKS, five tensors
        [B, 1 + patches, width] with the class token first; all on the weights' device and in their dtype
        (diffusers `consisid_utils.py:204-208`).
        """
        tokens, hidden_states = self.tower.forward_intermediates(
            image.to(self.tower.pos_embed),
            indices=[block - 1 for block in HIDDEN_BLOCKS],  # a block's input is the output of the one before
            return_prefix_tokens=True,
            output_fmt="NLC",
        )
        embedding = F.normalize(self.tower.forward_head(tokens), dim=-1)
        return embedding, [torch.cat([cls_token, patches], dim=1) for patches, cls_token in hidden_states]


def preprocess(image, size):
    """Face crops as the tower takes them (diffusers `consisid_utils.py:200-203`).

    image: square crops [B, 3, H, H], RGB 0..1. size: side to resize to, the tower's `image_size`.
    Returns [B, 3, size, size], normalised by OpenAI CLIP's mean and deviation.
    """
    # What torchvision's resize does to a tensor: antialiased, and bicubic overshoot stays in.
    image = F.interpolate(image, (size, size), mode="bicubic", antialias=True)
    mean, std = (image.new_tensor(x).view(3, 1, 1) for x in (_OPENAI_MEAN, _OPENAI_STD))
    return (image - mean) / std
