import asyncio

import aiohttp
import pytest
from consisid_pack.consisid_core.batch.client import Client, NodeFailed, Rejected, Stalled, first_video
from consisid_pack.consisid_core.batch.server import ask
from helpers.batch import plain_graph


def run(server, stall=600.0, **inputs):
    """(files, the content of the video) of the plain graph with its trouble."""
    graph = plain_graph()
    graph["2"]["inputs"].update(inputs)
    graph["1"]["inputs"]["color"] = 7

    async def both(client):
        files = await client.run(graph, stall)
        return files, await client.fetch(first_video(files)) if first_video(files) else None

    return ask(server.url, both)


def test_a_graph_runs_and_its_video_is_fetched(server):
    files, content = run(server)
    assert first_video(files)["filename"].endswith(".mp4") and content[4:8] == b"ftyp"


def test_failures_are_told_apart(server, tmp_path):
    with pytest.raises(NodeFailed, match="It does not work.") as failed:
        run(server, how="fail")
    assert failed.value.node == "2" and failed.value.error_type == "ValueError"
    graph = plain_graph()
    graph["1"]["inputs"]["width"] = 0
    with pytest.raises(Rejected, match="Colour: .*width") as rejected:
        ask(server.url, lambda client: client.run(graph, 60.0))
    assert rejected.value.nodes == {"1"}
    graph = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    with pytest.raises(Rejected, match="no outputs"):
        ask(server.url, lambda client: client.run(graph, 60.0))


def test_a_graph_without_progress_is_given_up_but_not_one_that_waits(server, tmp_path):
    async def both(client):
        first, second = plain_graph(), plain_graph()
        first["2"]["inputs"]["how"] = f"sleep {tmp_path / 'once'}"
        second["1"]["inputs"]["color"] = 9
        slow = asyncio.create_task(client.run(first, 1.0))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(client.run(second, 1.0))
        with pytest.raises(Stalled):
            await slow
        return await waiting

    assert first_video(ask(server.url, both))


def test_what_a_server_says_of_itself(server):
    async def ask_all(client):
        name = await client.upload("photo_batch.png", b"content")
        return await client.answers(), "Trouble" in await client.node_types(), name

    assert ask(server.url, ask_all) == (True, True, "photo_batch.png")
    assert ask("http://127.0.0.1:9", Client.answers) is False
    with pytest.raises(aiohttp.ClientError):
        ask("http://127.0.0.1:9", Client.node_types)
