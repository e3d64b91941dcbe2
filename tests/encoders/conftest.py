"""A hub on this machine: the addresses of the Hugging Face hub that its client asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The state of the server.

    Attributes:
      url: its address.
      files: (model, file name) -> content.
      commits: what was pushed, one list of JSON lines each.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[tuple[str, str], bytes] = {}
        self.commits: list[tuple[str, list[dict[str, Any]]]] = []
        self.asked: list[str] = []


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._file(with_body=False)

        def do_GET(self) -> None:
            self._file(with_body=True)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append(f"POST {self.path}")
            if self.path == "/api/repos/create":
                name = json.loads(body)["name"]
                owner = json.loads(body).get("organization") or "me"
                self._json({"url": f"{hub.url}/{owner}/{name}"})
            elif self.path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                self._json({"files": files})
            elif "/commit/" in self.path:
                model = self.path.removeprefix("/api/models/").split("/commit/")[0]
                hub.commits.append((model, [json.loads(line) for line in body.splitlines()]))
                self._json(
                    {"commitUrl": f"{hub.url}/{model}/commit/{COMMIT}", "commitOid": COMMIT,
                     "success": True}
                )  # fmt: skip
            else:
                self._answer(404, b"")

        def _file(self, *, with_body: bool) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if "/tree/" in self.path:
                model = self.path.removeprefix("/api/models/").split("/tree/")[0]
                files = [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for (owner, name), content in hub.files.items()
                    if owner == model
                ]
                return self._json(files)
            if self.path.startswith("/api/models/"):
                return self._json({"sha": COMMIT, "id": "model", "siblings": []})
            model, _, rest = self.path.lstrip("/").partition("/resolve/")
            name = rest.split("/", 1)[-1]
            content = hub.files.get((model, name))
            if content is None:
                return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            headers = {"X-Repo-Commit": COMMIT, "ETag": etag}
            return self._answer(200, content, headers, with_body=with_body)

        def _json(self, value: Any) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str] | None = None,
            *,
            with_body: bool = True,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that HF_ENDPOINT names, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setenv("HF_TOKEN", "testing")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
