"""What another process runs. It imports the core by its own name: `consisid_pack` exists under pytest only."""

import os


def run_as(rank, port, config_file, run_dir):
    """One of two processes of a training run on the CPU."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from consisid_core.training.config import load_config
    from consisid_core.training.run import run

    run(load_config(config_file), run_dir, "cpu")
