"""A server of public data in their true layouts: parts of files, listings, a hub, and failures."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

ENDPOINTS = ("gallery", "jump_metadata", "hub", "rxrx", "bbbc", "chammi", "efaar", "cpjump1_plates")


class DataServer(ThreadingHTTPServer):
    """Files by path, and what was asked for.

    Attributes:
      files: content by path, which starts with an endpoint's name.
      requests: (method, path, range) in their order.
      cut: path -> bytes after which the next answer breaks off.
      busy: path -> how many further requests are answered with 503.
      lies: path -> what is sent instead of the content that HEAD describes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.cut: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self.lies: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: DataServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, url = self.server, urlsplit(self.path)
        path = unquote(url.path).strip("/")
        asked = self.headers.get("Range", "")
        server.requests.append((self.command, path, asked))
        if server.busy.get(path, 0):
            server.busy[path] -= 1
            self.send_error(503)
            return
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            self._send(200, _listing(server.files, path, query), body)
            return
        if match := re.match(r"hub/api/datasets/(.+)/tree/main", path):
            self._send(200, _tree(server.files, match[1]), body)
            return
        content = server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        if body:
            content = server.lies.get(path, content)
        match = re.match(r"bytes=(\d+)-(\d*)", asked)
        if match and self.headers.get("If-Range", etag) == etag:
            end = int(match[2]) + 1 if match[2] else len(content)
            part = content[int(match[1]) : end]
            span = f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(content)}"
            self._send(206, part, body, {"Content-Range": span, "ETag": etag}, path)
        else:
            self._send(200, content, body, {"ETag": etag}, path)

    def _send(
        self, status: int, content: bytes, body: bool, headers: dict | None = None, path: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: self.server.cut.pop(path, len(content))])

    def log_message(self, format: str, *args: object) -> None:
        pass


def _listing(files: dict[str, bytes], bucket: str, query: dict[str, str]) -> bytes:
    """A listing of S3, two objects per page."""
    keys = sorted(
        path.removeprefix(f"{bucket}/")
        for path in files
        if path.startswith(f"{bucket}/{query.get('prefix', '')}")
    )
    folders, parts = set(), []
    if "delimiter" in query:
        prefix = query["prefix"]
        folders = {
            prefix + k[len(prefix) :].split("/")[0] + "/" for k in keys if "/" in k[len(prefix) :]
        }
        parts += [f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in sorted(folders)]
        keys = [k for k in keys if "/" not in k[len(prefix) :]]
    start = int(query.get("continuation-token", 0))
    for key in keys[start : start + 2]:
        content = files[f"{bucket}/{key}"]
        etag = hashlib.md5(content).hexdigest()
        parts.append(
            f'<Contents><Key>{key}</Key><Size>{len(content)}</Size><ETag>"{etag}"</ETag></Contents>'
        )
    if start + 2 < len(keys):
        parts.append(f"<NextContinuationToken>{start + 2}</NextContinuationToken>")
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{space}">{"".join(parts)}</ListBucketResult>'.encode()


def _tree(files: dict[str, bytes], repository: str) -> bytes:
    prefix = f"hub/datasets/{repository}/resolve/main/"
    entries = []
    for path, content in files.items():
        if path.startswith(prefix):
            entry = {"type": "file", "path": path.removeprefix(prefix), "size": len(content)}
            if path.endswith(".parquet"):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
            entries.append(entry)
    return json.dumps([{"type": "directory", "path": "data", "size": 0}, *entries]).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataServer]:
    monkeypatch.setenv("MAE_JAX_ATTEMPTS", "2")
    monkeypatch.setenv("MAE_JAX_TIMEOUT", "10")
    with DataServer() as server:
        for name in ENDPOINTS:
            monkeypatch.setenv(f"MAE_JAX_ENDPOINT_{name.upper()}", f"{server.url}/{name}")
        monkeypatch.setenv("MAE_JAX_ENDPOINT_JUMP_INDEX", f"{server.url}/jump_index.parquet")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
