"""The dimensions of the released net."""

import torch
from consisid_pack.consisid_core.checkpoint.net_config import infer_transformer_config
from consisid_pack.consisid_core.model.config import TransformerConfig
from consisid_pack.consisid_core.model.transformer import ConsisIDTransformer
from diffusers import ConsisIDTransformer3DModel


def test_full_size_has_the_names_and_shapes_of_diffusers():
    with torch.device("meta"):
        reference = ConsisIDTransformer3DModel(
            num_attention_heads=48, in_channels=32, num_layers=42, use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True, is_train_face=True,
        )  # fmt: skip
        ours = ConsisIDTransformer(TransformerConfig())
    expected = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == expected
    assert infer_transformer_config(expected) == TransformerConfig()
    stale = {"LFE_heads": 12, "LFE_num_tokens": 32, "LFE_output_dim": 768, "is_kps": False}
    assert infer_transformer_config(expected, stale) == TransformerConfig()
