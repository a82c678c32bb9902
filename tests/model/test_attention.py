"""The attention function for use outside ComfyUI."""

import torch
from consisid_pack.consisid_core.model.attention import scaled_dot_product_attention, split_heads


def test_attention_is_the_softmax_over_keys_of_each_head():
    generator = torch.Generator().manual_seed(0)
    joined = [torch.randn(2, length, 3 * 8, generator=generator) for length in (5, 7, 7)]
    q, k, v = (split_heads(x, 3) for x in joined)
    assert q.shape == (2, 3, 5, 8) and torch.equal(q[:, 1], joined[0][..., 8:16])
    expected = torch.cat([(q[:, i] @ k[:, i].mT / 8**0.5).softmax(-1) @ v[:, i] for i in range(3)], dim=-1)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, 3), expected)
