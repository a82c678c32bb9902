"""Counting steps without numbers."""

from pathlib import Path

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.config import Guard
from consisid_pack.consisid_core.training.guard import Watch


def test_only_a_row_of_bad_steps_leads_back():
    watch = Watch(Guard(skips=3, returns=1))
    assert [watch.must_go_back(good) for good in (False, False, True, False, False, False)] == [False] * 5 + [True]


def test_many_returns_to_one_checkpoint_end_the_run():
    watch = Watch(Guard(skips=1, returns=2))
    first, second = Path("000100"), Path("000200")
    for to in (first, first, second, second):
        watch.went_back(to)
        assert watch.in_a_row == 0
    with pytest.raises(ConsisIDError, match="again and again after 000200. Lower the learning rate"):
        watch.went_back(second)


def test_no_return_may_be_allowed_at_all():
    with pytest.raises(ConsisIDError, match="after the start"):
        Watch(Guard(skips=1, returns=0)).went_back(None)
