"""The model hub: which files the release has, and fetching one. Endpoint and token are huggingface_hub's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError, optional_library
from .parts import REPOSITORY, is_disk_full

BLOCK = 10 * 2**20
"""Bytes that are fetched at once; what has arrived of a broken one is fetched again."""


class UnreachableError(ConsisIDError):
    """No connection to the hub at all: the files have to be fetched by hand."""


class DamagedDownloadError(ConsisIDError):
    """A file arrived with other contents than the hub states."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the release."""

    path: str
    size: int
    """Bytes."""
    sha256: str | None
    """Of large files."""
    git_sha1: str
    """git's hash of a small file with its header."""
    commit: str


def list_remote() -> dict[str, RemoteFile]:
    """Path -> RemoteFile of all files of the release, at its newest commit.

    Raises:
        UnreachableError: there is no connection.
        ConsisIDError: the hub refuses.
    """
    with optional_library("Downloading"):
        from huggingface_hub import HfApi
    with _in_sentences(REPOSITORY):
        info = HfApi().model_info(REPOSITORY, files_metadata=True, timeout=30)
    return {
        file.rfilename: RemoteFile(
            file.rfilename, file.size, file.lfs["sha256"] if file.lfs else None, file.blob_id, info.sha
        )
        for file in info.siblings
    }


def url_of(path: str, commit: str | None = None) -> str:
    """Where a file of the release can be fetched with a browser."""
    with optional_library("Downloading"):
        from huggingface_hub import hf_hub_url
    return hf_hub_url(REPOSITORY, path, revision=commit)


def fetch(remote: RemoteFile, target: Path, partial: Path) -> None:
    """Download a file into `partial`, going on where an earlier run stopped, verify it, and move it to `target`.

    Through huggingface_hub's file system, because `hf_hub_download` begins anew at every run (1.33) and has a folder
    layout of its own.

    Raises:
        DamagedDownloadError: the checksum is another; what arrived was discarded.
        ConsisIDError: whatever else goes wrong; what has arrived stays in `partial` for the next run.
    """
    with optional_library("Downloading"):
        from huggingface_hub import HfFileSystem
        from tqdm import tqdm

    with _in_sentences(remote.path):
        partial.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "ab") as stream:
            done = stream.tell()
            if done < remote.size:
                path = f"{REPOSITORY}@{remote.commit}/{remote.path}"
                source = HfFileSystem().open(path, size=remote.size, block_size=BLOCK, cache_type="none")
                bar = tqdm(total=remote.size, initial=done, unit="B", unit_scale=True, desc=target.name[-40:])
                with source, bar:
                    source.seek(done)
                    while block := source.read(BLOCK):
                        bar.update(len(block))
                        stream.write(block)
                        stream.flush()
    if not is_same(partial, remote):
        partial.unlink()
        raise DamagedDownloadError(
            f"{remote.path} arrived damaged: its checksum is not the one that the hub states. It was discarded; run "
            "the command again."
        )
    os.replace(partial, target)


def is_same(file: Path, remote: RemoteFile) -> bool:
    """Whether a local file has the size and checksum that the hub states. Shows its progress where it takes long."""
    size = file.stat().st_size
    if size != remote.size:
        return False
    if remote.sha256:
        digest, expected = hashlib.sha256(), remote.sha256
    else:
        digest, expected = hashlib.sha1(f"blob {size}\0".encode()), remote.git_sha1
    from tqdm import tqdm

    with open(file, "rb") as stream, tqdm(
        total=size, unit="B", unit_scale=True, desc=f"verifying {file.name[-40:]}", leave=False, delay=2
    ) as progress:  # fmt: skip
        while block := stream.read(BLOCK):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest() == expected


@contextmanager
def _in_sentences(what: str) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into a sentence about this file or repository."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise ConsisIDError(_STATUS.get(status, _OTHER_STATUS).format(what=what, status=status)) from None
    except OfflineModeIsEnabled:
        raise UnreachableError("HF_HUB_OFFLINE is set, so nothing is downloaded.") from None
    except (OSError, *_network_errors()) as error:
        if is_disk_full(error):
            raise ConsisIDError(
                f"The disk is full: {what} is not complete. Make room and run the command again; it goes on where it "
                "stopped."
            ) from None
        if isinstance(error, OSError) and error.filename is not None:
            raise ConsisIDError(f"{what} cannot be written ({error}). Change the folder's rights.") from None
        failure = UnreachableError if what == REPOSITORY else ConsisIDError
        raise failure(
            f"The connection to the model hub failed at {what} ({type(error).__name__}: {str(error)[:200]}). Run the "
            "command again when the network is back; it goes on where it stopped."
        ) from None


_STATUS = {
    401: "The model hub asks for a login for {what} (401). Run `hf auth login`, or set HF_TOKEN to a valid token.",
    403: "The model hub refuses {what} (403). Accept the licence on the model's page, and use a token of that account.",
    404: "The model hub has no {what} (404). It was moved or renamed; look for a newer version of this pack.",
    429: "The model hub has had too many requests (429). Run the command again later; it goes on where it stopped.",
}
_OTHER_STATUS = (
    "The model hub answered with an error at {what} ({status}). Run the command again later; it goes on where it "
    "stopped."
)


def _network_errors():
    try:  # huggingface_hub before 1.0 uses requests, whose errors are OSErrors.
        import httpx
    except ImportError:
        return ()
    return (httpx.HTTPError,)
