import json

import pytest
from helpers.parallel import compare
from helpers.processes import forkserver

LAYOUTS = {
    2: [(2, 1, 1), (1, 2, 1), (1, 1, 2)],
    3: [(1, 3, 1), (1, 1, 3)],
    4: [(2, 2, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)],
}
"""Number of processes -> (cfg, ring, ulysses)."""


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """What `compare` found in each of four processes."""
    folder = tmp_path_factory.mktemp("parallel")
    processes = [forkserver().Process(target=compare, args=(rank, folder, LAYOUTS)) for rank in range(4)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=240)
    assert [one.exitcode for one in processes] == [0] * 4
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]
