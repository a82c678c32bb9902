"""What each layout sends, and the speed that connections allow: `python -m consisid_core.batch.parallel.traffic`.

Counted, not measured: bytes of the released size in bf16, and seconds of one GPU divided by their number plus the time
that the bytes take at the nominal speed of a connection, as if nothing was hidden behind computing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...model.config import TransformerConfig
from .layout import Layout, shares

SECONDS_ON_ONE = 114.87
STEPS = 50
MEASURED_BY_XDIT = {
    Layout(): SECONDS_ON_ONE,
    Layout(cfg=2): 59.72,
    Layout(ring=2): 70.19,
    Layout(ulysses=2): 76.56,
    Layout(ring=3): 55.51,
    Layout(ulysses=3): 53.57,
    Layout(cfg=2, ring=2): 40.68,
    Layout(cfg=2, ulysses=2): 41.37,
    Layout(cfg=2, ring=3): 35.78,
    Layout(cfg=2, ulysses=3): 38.35,
    Layout(ring=3, ulysses=2): 44.89,
    Layout(ring=2, ulysses=3): 44.24,
}
"""Seconds of one video of 50 steps on H100s (xDiT, `docs/performance/consisid.md`)."""

CONNECTIONS = {"NVLink": 450e9, "PCIe 5": 64e9, "100 Gb/s Ethernet": 12.5e9}
"""Nominal bytes a second in one direction: NVLink of an H100, 16 lanes of PCIe."""

LAYOUTS = (
    *MEASURED_BY_XDIT, Layout(ring=4), Layout(ulysses=4), Layout(ring=2, ulysses=2), Layout(ulysses=6),
    Layout(cfg=2, ring=4), Layout(cfg=2, ulysses=4), Layout(cfg=2, ring=2, ulysses=2), Layout(ulysses=8),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Of a video and its net."""

    config: TransformerConfig = TransformerConfig()
    latent_size: tuple[int, int, int] = (13, 60, 90)
    value_bytes: int = 2
    """Of a value in the net; velocities are exchanged in float32."""

    @property
    def tokens(self) -> int:
        """Of text and image."""
        frames, height, width = self.latent_size
        patch = self.config.patch_size
        return self.config.max_text_length + frames * math.ceil(height / patch) * math.ceil(width / patch)


def sent_in_step(layout: Layout, size: Size, rank: int = 0) -> int:
    """Bytes that a process sends in one step with guidance, of both branches unless they are split.

    Args:
        rank: of the process; the first sends most, if not all send the same.
    """
    sizes = shares(size.tokens, layout.sequence)
    index = rank % layout.sequence
    width, ring_index = layout.ulysses, index // layout.ulysses
    groups = [sum(sizes[i : i + width]) for i in range(0, len(sizes), width)]
    own, own_group = sizes[index], groups[ring_index]
    dim = size.config.hidden_dim

    to_heads = 3 * own * dim * (width - 1) // width
    to_tokens = (own_group - own) * dim // width
    passed_on = [groups[(ring_index - step) % layout.ring] for step in range(layout.ring - 1)]
    in_ring = 2 * sum(passed_on) * dim // width
    # The shares of the result, padded to the largest, go to all others of the group, and the groups' round the ring.
    start = ring_index * width
    joined = ((width - 1) * max(sizes[start : start + width]) + (layout.ring - 1) * max(groups)) * dim
    values = size.config.num_layers * (to_heads + to_tokens + in_ring) + joined
    velocity = size.config.out_channels * math.prod(size.latent_size) * 4
    return values * size.value_bytes * (2 // layout.cfg) + velocity * (layout.cfg - 1)


def table(size: Size) -> str:
    """Markdown: a line for each of LAYOUTS."""
    head = ["GPUs", "layout", "GB sent by a GPU in a step", *(f"{name}: s" for name in CONNECTIONS), "xDiT: s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for layout in sorted(LAYOUTS, key=lambda layout: layout.processes):
        sent = sent_in_step(layout, size)
        allowed = (SECONDS_ON_ONE / layout.processes + STEPS * sent / speed for speed in CONNECTIONS.values())
        measured = MEASURED_BY_XDIT.get(layout, "")
        cells = [str(layout.processes), str(layout), f"{sent / 1e9:.3g}", *(f"{s:.1f}" for s in allowed), str(measured)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Size()))
