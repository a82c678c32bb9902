"""A Ray cluster of several nodes on this machine."""

import os
import socket

from ray.cluster_utils import Cluster

_STORE = 100_000_000  # bytes
_TRIES = 8  # A node has 30 seconds to start, which do not always suffice beside other work.
_PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def _free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def add_node(cluster, **resources):
    """Add a node; returns it."""
    for left in reversed(range(_TRIES)):
        # Without ports of its own a node waits for its agents to choose theirs.
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        try:
            return cluster.add_node(object_store_memory=_STORE, include_dashboard=False, **ports, **resources)
        except Exception:
            if not left:
                raise


def start_cluster(nodes):
    """A cluster whose head takes no work, and the nodes that take one worker each."""
    os.environ["RAY_worker_niceness"] = "0"  # Else its workers wait for every test that runs beside them.
    cluster = Cluster()
    add_node(cluster, num_cpus=0)
    return cluster, [add_node(cluster, num_cpus=1) for _ in range(nodes)]
