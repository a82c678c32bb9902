"""The rotary embedding against diffusers'."""

import pytest
import torch
from consisid_pack.consisid_core.model.rope import rotary_table, rotate_
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.consisid.pipeline_consisid import get_resize_crop_region_for_grid


@pytest.mark.parametrize("grid", [(13, 30, 45), (1, 30, 45), (5, 20, 45), (3, 45, 30), (13, 34, 60)])
def test_rotary_table_equals_diffusers(grid):
    frames, rows, cols = grid
    crops = get_resize_crop_region_for_grid((rows, cols), 45, 30)
    expected = get_3d_rotary_pos_embed(64, crops, (rows, cols), frames)
    table = rotary_table(grid, (13, 30, 45), 64).squeeze(1)
    for ours, theirs in zip(table.unbind(-1), expected, strict=True):
        torch.testing.assert_close(ours.repeat_interleave(2, dim=-1), theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_rotation_equals_the_complex_product(dtype):
    table = rotary_table((3, 4, 6), (13, 30, 45), 64)
    rotated = torch.randn(2, 10 + 72, 3, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    compiled = rotated.clone()
    rotate_(rotated[:, 10:], table)
    torch.compile(rotate_, backend="aot_eager", fullgraph=True)(compiled[:, 10:], table)
    torch.testing.assert_close(compiled, rotated, rtol=0, atol=1e-6 if dtype == torch.float32 else 2**-7)
