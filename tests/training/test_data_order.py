"""Which clip is seen when."""

import torch
from consisid_pack.consisid_core.training.data_order import DataOrder, generator, micro_batches


def test_every_round_sees_every_clip_once_in_another_order():
    order = DataOrder(7, seed=3)
    rounds = [[order.clip(n) for n in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(clips) == list(range(7)) for clips in rounds)
    assert len(set(map(tuple, rounds))) == 3


def test_order_follows_from_the_count_and_the_seed():
    asked_in_turn, asked_late = DataOrder(50, 0), DataOrder(50, 0)
    [asked_in_turn.clip(n) for n in range(120)]
    assert [asked_late.clip(n) for n in range(120, 170)] == [asked_in_turn.clip(n) for n in range(120, 170)]
    assert [DataOrder(50, 1).clip(n) for n in range(50)] != [DataOrder(50, 0).clip(n) for n in range(50)]


def test_processes_share_the_examples_of_a_step():
    alone = list(micro_batches(2, 5, size=12, micro=3))
    assert alone[:4] == [[24, 25, 26], [27, 28, 29], [30, 31, 32], [33, 34, 35]] and len(alone) == 12
    two = [list(micro_batches(2, 5, size=12, micro=3, rank=rank, ranks=2)) for rank in (0, 1)]
    assert all(len(batches) == 6 for batches in two)
    for step in range(3):
        seen = {n for batches in two for batch in batches[2 * step : 2 * step + 2] for n in batch}
        assert seen == {n for batch in alone[4 * step : 4 * step + 4] for n in batch}


def test_generators_differ_with_each_number_and_repeat():
    def draw(*parts):
        return torch.randn(4, generator=generator(*parts)).tolist()

    assert draw("example", 0, 12) == draw("example", 0, 12)
    assert len({tuple(draw(*parts)) for parts in [("a", 1, 12), ("a", 11, 2), ("a", 1, 2), ("b", 1, 12)]}) == 4
