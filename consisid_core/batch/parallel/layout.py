"""How the processes of a run share one video: the prompts of guidance, and the tokens of the sequence."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConsisIDError
from ...model.config import TransformerConfig

LONGEST_RING = 3
"""By default longer sequences are split by heads: a ring of P sends P / 2 times as much (docs/parallel.md)."""


@dataclass(frozen=True)
class Layout:
    """Numbers of processes along three axes, the last innermost: those of one `ulysses` group are neighbours."""

    cfg: int = 1
    """2: one half evaluates the prompt, the other the negative prompt."""
    ring: int = 1
    """Keys and values travel round so many groups."""
    ulysses: int = 1
    """In attention each of so many processes has all the tokens of the group, and a part of the heads."""

    @property
    def sequence(self) -> int:
        """Parts of the sequence."""
        return self.ring * self.ulysses

    @property
    def processes(self) -> int:
        """In all."""
        return self.cfg * self.sequence

    def __str__(self) -> str:
        axes = {"CFG": self.cfg, "ring": self.ring, "Ulysses": self.ulysses}
        return " x ".join(f"{name} {count}" for name, count in axes.items() if count > 1) or "one process"


def choose_layout(
    processes: int,
    heads: int,
    guided: bool,
    cfg: int | None = None,
    ring: int | None = None,
    ulysses: int | None = None,
) -> Layout:
    """The layout for so many processes.

    The split of guidance comes first, because it sends next to nothing; what is left splits the sequence, as a ring
    where that is short, else by heads.

    Args:
        heads: of the net.
        guided: whether a negative prompt is evaluated.
        cfg, ring, ulysses: what was asked for; None leaves a number open.

    Raises:
        ConsisIDError: they do not make up `processes`, or a number suits neither guidance nor heads.
    """
    if cfg is None:
        asked = (ring or 1) * (ulysses or 1)
        cfg = 2 if guided and processes % (2 * asked) == 0 else 1
    left = max(1, processes // cfg)
    if ring is None and ulysses is None:
        ulysses = 1 if left <= LONGEST_RING or heads % left else left
    if ring is None:
        ring = max(1, left // ulysses)
    elif ulysses is None:
        ulysses = max(1, left // ring)
    layout = Layout(cfg, ring, ulysses)
    if cfg not in (1, 2):
        raise ConsisIDError(f"Guidance has two branches, so --cfg-split is 1 or 2, not {cfg}.")
    if layout.processes != processes:
        raise ConsisIDError(
            f"--cfg-split {cfg} x --ring {ring} x --ulysses {ulysses} is a layout for {layout.processes} processes, "
            f"but there are {processes}. Change one of them, or --nproc-per-node of torchrun."
        )
    if cfg == 2 and not guided:
        raise ConsisIDError("At --guidance 1 no negative prompt is evaluated, so there is nothing for --cfg-split 2.")
    if heads % ulysses:
        possible = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise ConsisIDError(
            f"--ulysses {ulysses} does not divide the {heads} heads of the net; {possible} do. Take --ring for the "
            "rest, which splits into any number."
        )
    return layout


def check_size(layout: Layout, config: TransformerConfig, latent_size: tuple[int, int, int]) -> None:
    """Raise ConsisIDError unless each process has something of a video to do.

    Args:
        config: of the net.
        latent_size: (T, h, w) of the video.
    """
    frames, height, width = latent_size
    patch = config.patch_size
    tokens = config.max_text_length + frames * -(-height // patch) * -(-width // patch)
    if tokens < layout.sequence:
        raise ConsisIDError(f"A video of {tokens} tokens does not split into {layout.sequence}. Take fewer processes.")
    if height < layout.processes:
        raise ConsisIDError(
            f"A video of {8 * height} pixels in height has {height} rows of latents, which {layout.processes} "
            f"processes cannot share when they decode it. Take at most {height} processes."
        )


def shares(total: int, parts: int) -> list[int]:
    """`total` in parts as equal as can be, the larger ones first.

    >>> shares(17776, 3)
    [5926, 5925, 5925]
    """
    each, rest = divmod(total, parts)
    return [each + (i < rest) for i in range(parts)]
