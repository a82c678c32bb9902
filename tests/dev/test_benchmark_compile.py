"""The comparison of the compiled net at its smallest size: that it measures, never how fast."""

import pytest
import torch
from consisid_pack.consisid_core.dev.benchmark_compile import compare_compiled
from consisid_pack.consisid_core.dev.benchmark_transformer import Contest
from consisid_pack.consisid_core.errors import ConsisIDError


@pytest.fixture
def contest():
    torch.compiler.reset()
    with torch.inference_mode():
        yield Contest("small", "cpu", "fp32")
    torch.compiler.reset()


def test_compiled_net_is_timed_against_itself(contest):
    rows = compare_compiled(contest.ours, contest.forward_of, "cpu", "fp32", 2, "eager")
    assert [row[0] for row in rows] == ["forward, transformer alone", "forward, transformer alone, processor time"]
    assert all(min(row[2:]) > 0 for row in rows)


def test_another_result_is_not_timed(contest):
    def wrong(graph, example_inputs):
        return lambda *args: [result + 0.1 for result in graph(*args)]

    with pytest.raises(ConsisIDError, match="compiled net disagrees with itself"):
        compare_compiled(contest.ours, contest.forward_of, "cpu", "fp32", 1, wrong)
