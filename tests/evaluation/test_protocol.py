"""Means and their errors."""

import pytest
from consisid_pack.consisid_core.evaluation.protocol import PROTOCOLS, Score, check_protocol, mean_score
from helpers.evaluation import refused


def test_standard_error_is_that_of_the_mean():
    # Deviations -3, -1, 1, 3 of 5: variance 20 / 3, of the mean 5 / 3.
    assert mean_score([2, 4, 6, 8]) == Score(5.0, pytest.approx((5 / 3) ** 0.5, rel=1e-15), 4)
    assert mean_score([0.25]) == Score(0.25, None, 1)


def test_an_unknown_protocol_is_named():
    for protocol in PROTOCOLS:
        check_protocol(protocol)
    with refused("There is no protocol 'loose'; choose strict or paper"):
        check_protocol("loose")
