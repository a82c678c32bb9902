"""Which steps are skipped, by the authors' code on what it was made for, and what is kept for them."""

import pytest
import torch
from consisid_pack.consisid_core.model.step_cache import (
    PUBLISHED_FIT,
    ResidualCache,
    StepCacheFit,
    relative_change,
    skipped_steps,
)
from consisid_pack.consisid_core.model.transformer import BlockInputs

PROPORTIONAL = StepCacheFit((1.0, 0.0), lowest=1e-6, highest=1e3)


def embeddings_with(changes):
    """[S, 1] of which each is larger by such a part than the one before."""
    return torch.cumprod(torch.tensor([1.0, *(1 + change for change in changes)], dtype=torch.float64), 0)[:, None]


def authors_skips(embeddings, threshold):
    """The loop of `teacache_forward`, for its first video."""
    import numpy as np

    skipped, num_steps = [], len(embeddings)
    for cnt, emb in enumerate(embeddings):
        if cnt in (0, num_steps - 1):
            should_calc, distance = True, 0
        else:
            rescale = np.poly1d([-1.53880483e03, 8.43202495e02, -1.34363087e02, 7.97131516e00, -5.23162339e-02])
            distance += rescale(((emb - previous).abs().mean() / previous.abs().mean()).item())  # noqa: F821
            should_calc = distance >= threshold
            if should_calc:
                distance = 0
        previous = emb  # noqa: F841
        skipped.append(not should_calc)
    return skipped


@pytest.mark.parametrize("threshold", [0.1, 0.15, 0.2])
def test_skips_are_the_authors_where_their_polynomial_holds(threshold):
    generator = torch.Generator().manual_seed(0)
    changes = 0.01 + 0.1 * torch.rand(49, generator=generator, dtype=torch.float64)
    embeddings = embeddings_with(changes.tolist())
    skipped = skipped_steps(embeddings, PUBLISHED_FIT, threshold, [True] * 50)
    assert skipped == authors_skips(embeddings, threshold)
    assert 10 < sum(skipped) < 40


def test_outside_its_range_the_polynomial_is_not_asked():
    assert PUBLISHED_FIT.output_change(0.5) == float("inf")
    at_edge = PUBLISHED_FIT.output_change(0.01)
    assert PUBLISHED_FIT.output_change(0.001) == pytest.approx(at_edge / 10)
    assert not any(skipped_steps(embeddings_with([0.5] * 9), PUBLISHED_FIT, 1.0, [True] * 10)), "few, large steps"
    many = skipped_steps(embeddings_with([0.004] * 999), PUBLISHED_FIT, 0.1, [True] * 1000)
    assert max(map(len, "".join("01"[skip] for skip in many).split("0"))) < 20, "small changes add up, too"


def test_first_last_and_forbidden_steps_are_computed_and_begin_anew():
    embeddings = embeddings_with([0.25] * 9)
    assert skipped_steps(embeddings, PROPORTIONAL, 100.0, [True] * 10) == [False, *[True] * 8, False]
    #                                                       0.25 0.5 | 0.75 is more than 0.6
    assert skipped_steps(embeddings, PROPORTIONAL, 0.6, [True] * 10) == [False, True, True] * 3 + [False]
    may = [True, False, False, *[True] * 7]
    assert skipped_steps(embeddings, PROPORTIONAL, 0.6, may) == [False] * 3 + [True, True, False] * 2 + [False]


def test_short_samplings_are_computed():
    for steps in (0, 1, 2):
        embeddings = embeddings_with([0.1] * (steps - 1))[:steps]
        assert not any(skipped_steps(embeddings, PROPORTIONAL, 1.0, [True] * steps))


def test_relative_change_is_of_means():
    now, before = torch.tensor([[1.0, -4.0], [0.0, 0.5]]), torch.tensor([[2.0, -2.0], [1.0, 1.0]])
    assert relative_change(now, before).tolist() == [0.75, 0.75]


class Blocks:
    """Adds to every token what was said, and counts."""

    def __init__(self):
        self.runs, self.adds = 0, 1.0

    def __call__(self, inputs):
        self.runs += 1
        return inputs.hidden.add_(self.adds)


def inputs(hidden, uuids=("a",), tokens=None, window=None):
    options = {"uuids": uuids} | ({"context_window": window} if window else {})
    return BlockInputs(hidden, 1, torch.zeros(1), torch.zeros(1), tokens, 1.0, None, options)


def ones(rows=1, value=1.0):
    return torch.full((rows, 3, 2), value)


def test_a_skipped_step_adds_the_residual_and_leaves_its_input_alone():
    blocks, cache = Blocks(), ResidualCache([False, True, False])
    assert torch.equal(cache.run(blocks, inputs(ones())), ones(value=2.0))
    cache.begin_step(1)
    blocks.adds, hidden = 5.0, ones(value=7.0)
    assert torch.equal(cache.run(blocks, inputs(hidden)), ones(value=8.0)) and torch.equal(hidden, ones(value=7.0))
    cache.begin_step(2)
    assert torch.equal(cache.run(blocks, inputs(ones())), ones(value=6.0))
    cache.begin_step(3)
    assert torch.equal(cache.run(blocks, inputs(ones())), ones(value=6.0)), "beyond the schedule"
    assert cache.forwards == [False, True, False, False] and blocks.runs == 3


def test_residuals_belong_to_prompt_identity_window_and_evaluation():
    class Window:
        def __init__(self, *frames):
            self.index_list = list(frames)

    blocks, cache = Blocks(), ResidualCache([False, True])
    kinds = [
        {"uuids": ("a",)},
        {"uuids": ("b",)},
        {"uuids": ("a",), "tokens": ones()},
        {"uuids": ("a",), "window": Window(0, 1)},
        {"uuids": ("a",), "window": Window(1, 2)},
        {"uuids": ("a",)},
    ]
    for adds, kind in enumerate(kinds):
        blocks.adds = adds
        cache.run(blocks, inputs(ones(), **kind))
    cache.begin_step(1)
    for adds, kind in enumerate(kinds):
        assert torch.equal(cache.run(blocks, inputs(ones(), **kind)), ones(value=1.0 + adds))
    assert blocks.runs == len(kinds)
    cache.run(blocks, inputs(ones(), uuids=("c",)))
    assert blocks.runs == len(kinds) + 1, "nothing is known of it"


def test_prompts_may_be_batched_otherwise_at_another_step():
    blocks, cache = Blocks(), ResidualCache([False, True, True])
    hidden = torch.cat((ones(2), ones(2, value=3.0)))
    blocks.adds = torch.cat((ones(2, value=10.0), ones(2, value=20.0)))
    cache.run(blocks, inputs(hidden, uuids=("a", "b")))
    cache.begin_step(1)
    assert torch.equal(cache.run(blocks, inputs(ones(2), uuids=("b",))), ones(2, value=21.0))
    assert torch.equal(cache.run(blocks, inputs(ones(2), uuids=("a",))), ones(2, value=11.0))
    cache.begin_step(2)
    expected = torch.cat((ones(2, value=21.0), ones(2, value=11.0)))
    assert torch.equal(cache.run(blocks, inputs(ones(4), uuids=("b", "a"))), expected)
    assert cache.forwards == [False, False, True, True, True, True]


def test_a_computed_step_frees_the_residuals_before_it_runs():
    blocks, cache = Blocks(), ResidualCache([False, True, False])
    cache.run(blocks, inputs(ones()))
    cache.begin_step(1)
    assert cache._residuals
    cache.begin_step(2)
    assert not cache._residuals
    cache.run(blocks, inputs(ones()))
    cache.clear()
    assert not cache._residuals
