"""A model hub on 127.0.0.1 for the unmodified huggingface_hub client: one model repository, large files behind a
redirect to another host name as at the real hub, and the faults that a network has.
"""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".pth", ".pt", ".onnx")
"""Kept as LFS files: known by their sha256 and sent by another host."""


class Hub:
    """Serves the files below a folder as the repository. Attributes may be changed between and during requests."""

    def __init__(self, repository, folder):
        self.repository = repository
        self.folder = folder
        self.status = None
        """Answered to every request instead of the content."""
        self.file_status = None
        """Answered to requests for large files only."""
        self.cut_at = None
        """Close the connection at this byte of the next large file, once."""
        self.file_status_after_cut = None
        """What `file_status` becomes with that."""
        self.corrupt = None
        """Path of a file of which one byte is sent wrong."""
        self.rate = None
        """Bytes per second of large files."""
        self.requests = []
        """(method, path, Range header, whether it came with a token), in order, of file contents."""

    def files(self):
        return {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}

    def starts(self, path):
        """The bytes from which on a file's content was asked for, in order."""
        asked = [r or "bytes=0-" for method, p, r, _ in self.requests if method == "GET" and p == path]
        return [int(r.removeprefix("bytes=").split("-")[0]) for r in asked]

    def _info(self):
        return {
            "id": self.repository, "modelId": self.repository, "sha": COMMIT, "private": False, "tags": [],
            "downloads": 0, "likes": 0, "siblings": [_sibling(name, path) for name, path in self.files().items()],
        }  # fmt: skip

    @contextmanager
    def serve(self):
        """Yields the endpoint for HF_ENDPOINT."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


def _sibling(name, path):
    content = path.read_bytes()
    sibling = {"rfilename": name, "size": len(content)}
    if not name.endswith(LARGE):
        return {**sibling, "blobId": git_sha1(content)}
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
    lfs = {"sha256": sha256, "size": len(content), "pointerSize": len(pointer)}
    return {**sibling, "blobId": git_sha1(pointer), "lfs": lfs}


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        if hub.status:
            return self._refuse(hub.status)
        api = f"/api/models/{hub.repository}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            return self._send(json.dumps(hub._info()).encode(), {"Content-Type": "application/json"})
        for revision in (COMMIT, "main"):
            prefix = f"/{hub.repository}/resolve/{revision}/"
            if path.startswith(prefix):
                return self._resolve(path.removeprefix(prefix))
        if path.startswith("/cdn/"):
            return self._content(path.removeprefix("/cdn/"))
        return self._refuse(404)

    def _resolve(self, name):
        if name not in self.hub.files():
            return self._refuse(404, "EntryNotFound")
        if not name.endswith(LARGE):
            return self._content(name)
        content = self.hub.files()[name].read_bytes()
        port = self.server.server_port
        return self._send(
            b"",
            {
                "Location": f"http://localhost:{port}/cdn/{name}",
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
            },
            status=302,
        )

    def _content(self, name):
        hub = self.hub
        asked = self.headers.get("Range")
        hub.requests.append((self.command, name, asked, "Authorization" in self.headers))
        large = name.endswith(LARGE)
        if large and hub.file_status:
            return self._refuse(hub.file_status)
        content = hub.files()[name].read_bytes()
        etag = hashlib.sha256(content).hexdigest() if large else git_sha1(content)
        if hub.corrupt == name:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        headers, status, total = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}, 200, len(content)
        start = 0
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or total), total - 1) + 1
            if start >= total:
                return self._refuse(416)
            content, status = content[start:end], 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        return self._send(content, headers, status, faulty=large, start=start)

    def _refuse(self, status, code=None):
        headers = {"X-Error-Code": code} if code else {}
        self._send(b'{"error": "refused"}', headers, status)

    def _send(self, content, headers, status=200, faulty=False, start=0):
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.hub
        if faulty and hub.cut_at is not None and start <= hub.cut_at < start + len(content):
            content, hub.cut_at, hub.file_status = content[: hub.cut_at - start], None, hub.file_status_after_cut
            self.close_connection = True
        try:
            step = max(1, hub.rate // 20) if faulty and hub.rate else len(content) or 1
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                if faulty and hub.rate:
                    time.sleep(step / hub.rate)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
