"""The model hub: which files the release has, and fetching one. Endpoint and token are huggingface_hub's own."""

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import ConsisIDError, optional_library
from .parts import REPOSITORY, is_disk_full

_BLOCK = 1 << 22


class UnreachableError(ConsisIDError):
    """No connection to the hub at all: the files have to be fetched by hand."""


class DamagedDownloadError(ConsisIDError):
    """A file arrived with other contents than the hub states."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the release. sha256: of large files; git_sha1: git's hash of a small file with its header."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str
    commit: str


def list_remote():
    """Path -> RemoteFile of all files of the release, at its newest commit. Raises ConsisIDError."""
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


def url_of(path, commit=None):
    """Where a file of the release can be fetched with a browser."""
    with optional_library("Downloading"):
        from huggingface_hub import hf_hub_url
    return hf_hub_url(REPOSITORY, path, revision=commit)


def fetch(remote, target, partial):
    """Download a file into `partial`, going on where an earlier run stopped, verify it, and move it to `target`.

    Raises ConsisIDError. What has arrived stays in `partial` for the next run, unless it is wrong.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with _in_sentences(remote.path):
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = partial.stat().st_size if partial.exists() else 0
        if done < remote.size or not partial.exists():
            with open(partial, "ab") as stream:
                http_get(
                    url_of(remote.path, remote.commit),
                    stream,
                    resume_size=done,
                    # Compressed, a range of bytes would count something else.
                    headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                    expected_size=remote.size,
                    displayed_filename=target.name,
                )
    if not is_same(partial, remote):
        partial.unlink()
        raise DamagedDownloadError(
            f"{remote.path} arrived damaged: its checksum is not the one that the hub states. It was discarded; run "
            "the command again."
        )
    os.replace(partial, target)


def is_same(file, remote):
    """Whether a local file has the size and checksum that the hub states."""
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
        while block := stream.read(_BLOCK):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest() == expected


@contextmanager
def _in_sentences(what):
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
