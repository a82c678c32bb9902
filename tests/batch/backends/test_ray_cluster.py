"""Real Ray, several nodes on this machine, each with a real ComfyUI.

CONSISID_BATCH_VIDEOS makes more videos than the few of every day.
"""

import os
import time

import psutil
import pytest
from consisid_pack.consisid_core.batch.backends.ray_cluster import RayCluster
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import demo_graph, lines, run, start, videos, write_run

COUNT = int(os.environ.get("CONSISID_BATCH_VIDEOS", 6))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "auto"])
def test_no_cluster_is_a_sentence(address, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConsisIDError, match=f"no Ray cluster at {address} .nothing answers at 127.0.0.1:9.*ray start"):
        RayCluster(address, None, [], 60, None)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes that take a worker each."""
    pytest.importorskip("ray")
    from helpers.ray_cluster import start_cluster

    cluster, nodes = start_cluster(2)
    yield cluster, nodes
    cluster.shutdown()


def wait_for(process, folder, count):
    """Until so many videos are made, or the command has ended."""
    while len(videos(folder)) < count and process.poll() is None:
        time.sleep(0.05)


def kill_a_worker(nodes):
    """Kill the process of a worker that is at work on one of these nodes, and wait for the end of its ComfyUI."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]

    def at_work():
        for process in psutil.process_iter(["ppid", "cmdline"]):
            program = (process.info["cmdline"] or [""])[0]
            if process.info["ppid"] in raylets and program.startswith("ray::_Actor.make"):
                return process

    deadline = time.monotonic() + 600
    while not (worker := at_work()):
        assert time.monotonic() < deadline, "no worker is at work"
        time.sleep(0.01)
    servers = worker.children(recursive=True)
    worker.kill()
    assert servers and not psutil.wait_procs(servers, timeout=60)[1], "its ComfyUI lives on"


def test_every_video_is_made_whoever_dies(tmp_path, base, cluster):
    """The driver is killed and started again, a worker is killed, then a node; compared with the run of one machine."""
    from helpers.ray_cluster import add_node

    rows = "".join(f"photos/{('anna', 'eve')[number % 2]}.png,{number}\n" for number in range(COUNT))
    graph = demo_graph()
    graph["14"]["inputs"]["steps"] = 10  # So that there is time for what happens.
    alone = write_run(tmp_path / "alone", graph, "photo,seed\n" + rows)
    assert run(alone, base)[0] == 0

    cluster, nodes = cluster
    folder = write_run(tmp_path / "run", graph, "photo,seed\n" + rows)
    with start(folder, base, "--ray", cluster.address) as process:
        wait_for(process, folder, COUNT // 3)
        process.kill()
    kept = videos(folder)
    assert 0 < len(kept) < COUNT
    with start(folder, base, "--ray", cluster.address, "--files", "folder") as process:
        wait_for(process, folder, len(kept) + 1)
        kill_a_worker(nodes)
        wait_for(process, folder, max(len(kept) + 2, COUNT // 2))
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        wait_for(process, folder, min(COUNT - 1, len(videos(folder)) + 1))
        nodes.append(add_node(cluster, num_cpus=1))  # And a machine joins.
        output = process.communicate(timeout=1800)[0]
    assert process.returncode == 0 and f"{COUNT} of {COUNT} videos" in output, output
    assert output.count(" is gone: Ray has lost it") >= 2 and "It is tried again." in output, output
    assert max(line["attempts"] for line in lines(folder)) > 1, "what the worker had was made elsewhere"
    made = [line["what"] for line in lines(folder) if "file" in line]
    assert len(made) == len(set(made)) == COUNT, "none twice"
    assert videos(folder) == videos(alone), "byte for byte"
    assert not list((folder / "videos").glob("*.part"))


def test_a_worker_takes_so_many_gpus_of_one_machine(cluster):
    from helpers.ray_cluster import add_node

    backend = RayCluster(cluster[0].address, None, [], 60, None, gpus_each=2)
    with pytest.raises(ConsisIDError, match="has no machine with 2 GPUs. Add one: ray start"):
        backend.weights({})
    node = add_node(cluster[0], num_cpus=1, num_gpus=5)  # Ray believes what it is told.
    try:
        assert backend._machines() == {node.node_id: 2}
    finally:
        cluster[0].remove_node(node)
        backend.close()


def test_a_cluster_of_another_version_is_a_sentence(cluster):
    import json

    import ray
    from ray._private import ray_constants
    from ray._raylet import GcsClient

    client = GcsClient(address=cluster[0].address)
    space = ray_constants.KV_NAMESPACE_CLUSTER
    kept = client.internal_kv_get(b"CLUSTER_METADATA", space)
    other = json.dumps({**json.loads(kept), "ray_version": "2.0.0"}).encode()
    client.internal_kv_put(b"CLUSTER_METADATA", other, True, space)
    try:
        with pytest.raises(ConsisIDError, match="another version of Ray or Python than this machine, which has"):
            RayCluster(cluster[0].address, None, [], 60, None)
    finally:
        ray.shutdown()
        client.internal_kv_put(b"CLUSTER_METADATA", kept, True, space)
