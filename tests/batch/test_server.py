import logging
import os
import socket
from pathlib import Path

import psutil
import pytest
from consisid_pack.consisid_core.batch import server as server_module
from consisid_pack.consisid_core.batch.client import Client
from consisid_pack.consisid_core.batch.server import (
    ForeignServer,
    OwnServer,
    ask,
    base_directory,
    check_nodes,
    find_comfyui,
    free_port,
)
from consisid_pack.consisid_core.errors import ConsisIDError


def test_a_server_without_our_pack_is_named(server):
    with pytest.raises(ConsisIDError, match=r"at http://127.0.0.1:\d+ has no node ConsisIDNew, .* Install this pack"):
        check_nodes(server.url, frozenset({"ConsisIDNew", "SaveVideo"}))
    with pytest.raises(ConsisIDError, match="has no node Other, .* Install there the packs"):
        ForeignServer(server.url + "/").start(frozenset({"Other"}))
    with pytest.raises(ConsisIDError, match=r"http://127.0.0.1:9 does not answer as a ComfyUI server does"):
        ForeignServer("http://127.0.0.1:9").start(frozenset())


def test_the_server_keeps_what_it_writes_to_itself(server, base):
    server.put_identity("abc", b"face")
    files = {file.name: file.stat().st_mtime for file in server.folder.rglob("abc*")}
    server.put_identity("abc", b"face")
    assert {file.name: file.stat().st_mtime for file in server.folder.rglob("abc*")} == files
    assert server.take_identity("abc") == b"face" and not list(server.folder.rglob("abc*"))
    ask(server.url, lambda client: client.upload("mine.png", b"photo"))
    assert (server.folder / "input" / "mine.png").is_file() and not list((base / "input").iterdir())
    for name in ("output", "temp"):
        (server.folder / name / "left.bin").write_bytes(b"")
    server.after_task()
    assert not list(server.folder.rglob("left.bin"))


def test_a_server_that_grows_is_stopped(tmp_path, caplog, monkeypatch):
    server = OwnServer(tmp_path, tmp_path, [])
    for name in ("output", "temp", "models/consisid/identities"):
        (tmp_path / name).mkdir(parents=True)
    sizes = iter([1e9, 2e9, 3e9, 5.9e9, 6.1e9])
    monkeypatch.setattr(server, "_memory", lambda: (next(sizes), 20e9))
    stops = []
    monkeypatch.setattr(server, "stop", lambda: stops.append(1))
    with caplog.at_level(logging.WARNING, "consisid"):
        for _ in range(4):
            server.after_task()
        assert not stops
        server.after_task()
    assert stops and "has grown by 4.1 GB and is started anew" in caplog.text


def test_its_memory_is_that_of_comfyui(server):
    used, total = server._memory()
    assert 1e8 < used < total == psutil.virtual_memory().total


def test_a_server_that_does_not_start_shows_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('There is no torch.')")
    with pytest.raises(
        ConsisIDError, match=r"(?s)ended with exit code 1 before it answered. Its log.*There is no torch"
    ):
        OwnServer(tmp_path, tmp_path / "work", []).start(frozenset())


def test_no_free_port_is_a_sentence(monkeypatch):
    class Full(socket.socket):
        def bind(self, address):
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(server_module.socket, "socket", Full)
    with pytest.raises(ConsisIDError, match=r"no free port on 127.0.0.1 .*\(Address already in use\)"):
        free_port()


def test_a_server_of_somebody_else_is_left_running(server):
    foreign = ForeignServer(server.url)
    foreign.cancel("unknown")
    foreign.after_task()
    foreign.stop()
    assert ask(server.url, Client.answers)


def test_models_lie_where_the_options_say():
    for options in (["--fast", "--base-directory", "/data"], ["--base-directory=/data", "--cpu"]):
        assert base_directory(Path("/comfyui"), options) == Path("/data")
    assert base_directory("/comfyui", ["--fast"]) == Path("/comfyui") and base_directory(None, []) is None


def test_the_comfyui_is_found_by_name_or_not_at_all(tmp_path):
    assert find_comfyui(os.environ["COMFYUI_PATH"]) == Path(os.environ["COMFYUI_PATH"])
    (tmp_path / "models").mkdir()
    with pytest.raises(ConsisIDError, match="no main.py"):
        find_comfyui(str(tmp_path))
