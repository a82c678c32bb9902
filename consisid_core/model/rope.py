"""Three-axis rotary position embedding of CogVideoX 1.0 (no spatial interpolation scale: see diffusers
`embeddings.get_3d_rotary_pos_embed` and `pipeline_consisid._prepare_rotary_positional_embeddings`)."""

from __future__ import annotations

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


def rotary_table(
    grid: tuple[int, int, int],
    base_grid: tuple[int, int, int],
    head_dim: int,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Every patch's rotation, as cosines and sines.

    A quarter of the pairs turn with the frame, three eighths each with row and column. Other sizes than the trained one
    are stretched onto its range of rows and columns; frames keep their index.

    Args:
        grid: frames, rows and columns of patches.
        base_grid: the same for the size that the model was trained at.

    Returns:
        float32 [T * H * W, 1, head_dim / 2, 2]; the dimension of 1 is that of the heads, the last one cosine and sine.
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
    return torch.stack((angles.cos(), angles.sin()), dim=-1).unsqueeze(1)


def rotate_(x: torch.Tensor, table: torch.Tensor) -> None:
    """Rotate neighbouring channel pairs in place, computed in float32.

    A complex product reads and writes each pair once, where single operations on cosines and sines take nine passes;
    torch.compile makes one pass of those, but knows no complex numbers.

    Args:
        x: [B, N, heads, head_dim].
        table: [N, 1, head_dim / 2, 2] of `rotary_table`.
    """
    wide = x.float()  # x itself if it is float32
    pairs = wide.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (even, odd), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        wide = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    else:
        torch.view_as_complex(pairs).mul_(torch.view_as_complex(table))
    if wide is not x:
        x.copy_(wide)
