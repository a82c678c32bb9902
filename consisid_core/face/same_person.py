"""Whether several photos show one person, judged by the recogniser's embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F

SAME_PERSON = 0.3
"""Least cosine to the mean of the other photos that still passes as the same person.

antelopev2's ArcFace gives strangers about 0 (rarely 0.2) and photos of one person mostly 0.4 to 0.8; a mean of several
photos is closer to each than a single one. The demo recogniser (SFace) gives strangers -0.1 to 0.21, one person 0.6.
"""


def disagreeing_photos(embedding: torch.Tensor) -> list[tuple[int, float]]:
    """Photos whose face is not that of the others.

    Each is compared with the mean of the others; the worst is set apart and the rest compared anew, so that one
    stranger does not make the others look like strangers to each other.

    Args:
        embedding: [B, 512] recogniser output of B photos, of any length (it is normalised here).

    Returns:
        [(number, cosine)] in the order of the photos, counted from 1, empty if all agree; both photos if only two are
        left and disagree, because neither is the right one. cosine, -1..1, is that to the mean of the others when the
        photo was set apart. A single photo agrees with itself.
    """
    unit = F.normalize(embedding.float(), dim=-1)
    rest, apart = list(range(len(unit))), []
    while len(rest) > 1:
        mean_of_others = (unit[rest].sum(dim=0) - unit[rest]) / (len(rest) - 1)
        cosines = F.cosine_similarity(unit[rest], mean_of_others, dim=-1).tolist()
        worst = min(range(len(rest)), key=cosines.__getitem__)
        if cosines[worst] >= SAME_PERSON:
            break
        if len(rest) == 2:
            apart += zip(rest, cosines, strict=True)
            break
        apart.append((rest.pop(worst), cosines[worst]))
    return [(i + 1, cosine) for i, cosine in sorted(apart)]
