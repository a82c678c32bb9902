"""Three-axis rotary position embedding of CogVideoX 1.0 (no spatial interpolation scale: see diffusers
`embeddings.get_3d_rotary_pos_embed` and `pipeline_consisid._prepare_rotary_positional_embeddings`)."""

import torch


def _fit_grid(rows, cols, base_rows, base_cols):
    """Where a rows x cols grid lies on the trained grid: start and stop of each axis after an aspect-keeping fit."""
    if rows / cols > base_rows / base_cols:
        fit_rows, fit_cols = base_rows, round(base_rows / rows * cols)
    else:
        fit_rows, fit_cols = round(base_cols / cols * rows), base_cols
    top, left = round((base_rows - fit_rows) / 2), round((base_cols - fit_cols) / 2)
    return (top, top + fit_rows), (left, left + fit_cols)


def _axis_angles(positions, dim, theta=10000.0):
    """Rotation angle of each of dim / 2 pairs at each position: [N] -> [N, dim / 2]."""
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim)
    return torch.outer(positions, frequencies)


def rotary_table(grid, base_grid, head_dim, device=None):
    """Cosine and sine of every patch's rotation, each float32 [T * H * W, head_dim / 2].

    grid: (frames, rows, columns) of patches; base_grid: the same for the size the model was trained at. A quarter of
    the pairs turn with the frame, three eighths each with row and column. Other sizes than the trained one are
    stretched onto its range of rows and columns; frames keep their index.
    """
    frames, rows, cols = grid
    (top, bottom), (left, right) = _fit_grid(rows, cols, *base_grid[1:])
    t = torch.arange(frames, dtype=torch.float32, device=device)
    h = torch.linspace(top, bottom * (rows - 1) / rows, rows, device=device)
    w = torch.linspace(left, right * (cols - 1) / cols, cols, device=device)
    angles = torch.cat(
        [
            _axis_angles(t, head_dim // 4)[:, None, None].expand(-1, rows, cols, -1),
            _axis_angles(h, head_dim // 8 * 3)[None, :, None].expand(frames, -1, cols, -1),
            _axis_angles(w, head_dim // 8 * 3)[None, None].expand(frames, rows, -1, -1),
        ],
        dim=-1,
    ).flatten(0, 2)
    return angles.cos(), angles.sin()


def apply_rotary(x, table):
    """Rotate neighbouring channel pairs of x [..., N, head_dim] in float32; the result has x's dtype."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
