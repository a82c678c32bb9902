"""The rotary embedding against diffusers'."""

import pytest
import torch
from consisid_pack.consisid_core.model.rope import rotary_table
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.consisid.pipeline_consisid import get_resize_crop_region_for_grid


@pytest.mark.parametrize("grid", [(13, 30, 45), (1, 30, 45), (5, 20, 45), (3, 45, 30), (13, 34, 60)])
def test_rotary_table_equals_diffusers(grid):
    frames, rows, cols = grid
    crops = get_resize_crop_region_for_grid((rows, cols), 45, 30)
    expected = get_3d_rotary_pos_embed(64, crops, (rows, cols), frames)
    table = rotary_table(grid, (13, 30, 45), 64).squeeze(1)
    for ours, theirs in zip((table.real, table.imag), expected, strict=True):
        torch.testing.assert_close(ours.repeat_interleave(2, dim=-1), theirs, rtol=0, atol=5e-6)
