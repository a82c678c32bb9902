"""Rows of a video on several processes against all rows on one."""

import pytest


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_video_equals_that_of_one_process(compared, processes):
    errors = [found[f"video of {processes}"][0] for found in compared[:processes]]
    assert len(errors) == processes and max(errors) <= 1e-5
