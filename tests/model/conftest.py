"""Both nets with the same random weights, for all tests of the transformer's parts."""

import pytest
from helpers.oracle import TRANSFORMERS, build_ours, build_reference


@pytest.fixture(params=TRANSFORMERS.values(), ids=TRANSFORMERS.keys())
def pair(request):
    reference = build_reference(**request.param)
    return reference, build_ours(reference)
