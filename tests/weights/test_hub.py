"""The hub's client by itself. Whole downloads, cuts and refusals: test_download.py."""

import os

import pytest
from consisid_pack.consisid_core.weights import hub as client
from consisid_pack.consisid_core.weights.parts import REPOSITORY
from helpers.hub import COMMIT, Hub, git_sha1


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub with one large and one small file, to which huggingface_hub turns."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(os.urandom(3000))
    (folder / "config.json").write_text("{}")
    hub = Hub(REPOSITORY, folder)
    with hub.serve() as endpoint:
        import huggingface_hub.constants
        import huggingface_hub.file_download
        from huggingface_hub import HfFileSystem

        # What HF_ENDPOINT decides when the library is imported.
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        HfFileSystem.clear_instance_cache()
        yield hub


def test_files_are_listed_with_their_hashes(served):
    listed = client.list_remote()
    assert listed.keys() == {"a.safetensors", "config.json"}
    small, large = listed["config.json"], listed["a.safetensors"]
    assert (small.size, small.sha256, small.git_sha1) == (2, None, git_sha1(b"{}"))
    assert large.size == 3000 and len(large.sha256) == 64 and large.commit == COMMIT


def test_what_is_there_is_not_fetched_again(served, tmp_path):
    remote = client.list_remote()["a.safetensors"]
    content = (served.folder / "a.safetensors").read_bytes()
    partial, target = tmp_path / "x" / "a.part", tmp_path / "x" / "a"
    partial.parent.mkdir()
    partial.write_bytes(content[:1000])
    client.fetch(remote, target, partial)
    assert target.read_bytes() == content and not partial.exists() and client.is_same(target, remote)
    assert served.starts("a.safetensors") == [1000]


def test_a_partial_file_of_other_contents_is_discarded(served, tmp_path):
    remote = client.list_remote()["a.safetensors"]
    partial = tmp_path / "a.part"
    partial.write_bytes(bytes(1000))
    with pytest.raises(client.DamagedDownloadError, match=r"a\.safetensors arrived damaged"):
        client.fetch(remote, tmp_path / "a", partial)
    assert not partial.exists() and not (tmp_path / "a").exists()


def test_addresses_are_those_of_a_browser(served):
    assert client.url_of("vae/config.json").endswith(f"/{REPOSITORY}/resolve/main/vae/config.json")
