"""Whether several photos show one person."""

import pytest
import torch
from consisid_pack.consisid_core.face.same_person import SAME_PERSON, disagreeing_photos


def people(*names, likeness=0.5, seed=0):
    """Embeddings in which photos of one name have about this cosine, others about 0, of lengths as ArcFace's."""
    generator = torch.Generator().manual_seed(seed)
    person = {name: torch.randn(512, generator=generator) for name in dict.fromkeys(names)}
    noise = torch.randn(len(names), 512, generator=generator)
    mean = torch.stack([person[name] for name in names])
    return likeness**0.5 * mean + (1 - likeness) ** 0.5 * noise


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a", []), ("aa", []), ("aaaa", []),
        ("ab", [1, 2]), ("abc", [1, 2, 3]),
        ("aab", [3]), ("baaa", [1]), ("aabaac", [3, 6]), ("aaabb", [4, 5]),
    ],
)  # fmt: skip
def test_strangers_are_told_from_the_rest(names, expected):
    for seed in range(20):
        embedding = people(*names, seed=seed)
        found = disagreeing_photos(embedding)
        assert [number for number, _ in found] == expected
        assert all(-1 <= cosine < SAME_PERSON for _, cosine in found)
        rescaled = disagreeing_photos(embedding * torch.rand(len(names), 1).add(0.1))
        assert [number for number, _ in rescaled] == expected


def test_score_is_the_cosine_to_the_mean_of_the_others():
    embedding = people(*"aab")
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    ((number, cosine),) = disagreeing_photos(embedding)
    assert number == 3
    assert cosine == pytest.approx(torch.cosine_similarity(unit[2], unit[:2].mean(0), dim=0).item(), abs=1e-6)
