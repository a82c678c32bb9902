"""A training run of two processes."""

import os

from helpers.processes import SECONDS, forkserver


def run_two(config_file, run_dir):
    """Run two processes, told who they are as launchers tell them."""
    from consisid_pack.consisid_core.batch.server import free_port

    port = free_port()
    processes = [forkserver().Process(target=_run_as, args=(rank, port, config_file, run_dir)) for rank in (0, 1)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=SECONDS)
    assert [one.exitcode for one in processes] == [0, 0]


def _run_as(rank, port, config_file, run_dir):
    """One of two processes of a training run on the CPU."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from consisid_core.training.config import load_config
    from consisid_core.training.run import run

    run(load_config(config_file), run_dir, "cpu")
