"""A fake Hugging Face hub with enough of the HTTP API for `snapshot_download`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Files of at least this size are in LFS, identified by SHA-256 rather than SHA-1.
LFS_SIZE = 10_000


@contextlib.contextmanager
def fake_hub(repository: str, commit: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve `files` as `commit` of the model `repository`, which is its main; give the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            api = f"/api/models/{repository}"
            content: bytes | None = None
            headers: dict[str, str] = {}
            if path in (api, f"{api}/revision/main", f"{api}/revision/{commit}"):
                siblings = [{"rfilename": name} for name in files]
                info = {"id": repository, "sha": commit, "siblings": siblings, "tags": []}
                content = json.dumps(info).encode()
            elif path in (f"{api}/tree/main", f"{api}/tree/{commit}"):
                content = json.dumps([_entry(name, body) for name, body in files.items()]).encode()
            else:
                for revision in ("main", commit):
                    name = path.removeprefix(f"/{repository}/resolve/{revision}/")
                    if name in files:
                        content = files[name]
                        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit}
            self.send_response(200 if content is not None else 404)
            content = content or b""
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _etag(content: bytes) -> str:
    """The ETag of a file: git's blob id, or the SHA-256 for LFS."""
    if len(content) >= LFS_SIZE:
        return hashlib.sha256(content).hexdigest()
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _etag(content)[:40]}
    if len(content) >= LFS_SIZE:
        lfs = {"oid": _etag(content), "size": len(content), "pointerSize": 134}
        return {**entry, "lfs": lfs}
    return entry
