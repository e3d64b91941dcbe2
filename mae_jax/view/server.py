"""The page's server: this machine only, reading only."""

import json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mae_jax.errors import InputError
from mae_jax.view.screen import Screen

LOOPBACK = "127.0.0.1"
_PAGE = Path(__file__).parent / "page.html"


class ViewServer(ThreadingHTTPServer):
    """Serves one screen on the loopback interface."""

    daemon_threads = True

    def __init__(self, screen: Screen, port: int = 0) -> None:
        """Takes the port, or a free one for 0.

        Raises:
          InputError: the port is taken.
        """
        self.screen = screen
        self.summary = json.dumps(screen.summary()).encode()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as problem:
            raise InputError(
                f"port {port} cannot be had ({problem.strerror}); give another --port, or 0."
            ) from None

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer

    def do_GET(self) -> None:
        # A page elsewhere could have its name point here; the browser still says that name.
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in (LOOPBACK, "localhost"):
            self._send(403, b"this page is for this machine alone", "text/plain")
            return
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        try:
            answer = self._answer(parts.path, query)
        except InputError as problem:
            self._json({"error": str(problem)}, 400)
            return
        if answer is None:
            self._json({"error": f"there is no {parts.path}"}, 404)
        else:
            self._send(200, *answer)

    def _answer(self, path: str, query: dict[str, str]) -> tuple[bytes, str] | None:
        screen = self.server.screen
        if path == "/":
            return _PAGE.read_bytes(), "text/html; charset=utf-8"
        if path == "/api/screen":
            return self.server.summary, "application/json"
        if path not in ("/api/well", "/api/similar", "/api/image"):
            return None
        well = _number(query, "well", len(screen))
        if path == "/api/well":
            found = {
                "neighbors": [{"well": i, "cosine": c} for i, c in screen.neighbors(well)],
                "sites": screen.sites(well),
                "channels": screen.channels(well),
            }
            return json.dumps(found).encode(), "application/json"
        if path == "/api/similar":
            cosines = [round(float(c), 5) for c in screen.similarities(well)]
            return json.dumps(cosines).encode(), "application/json"
        site = _number(query, "site", 10000, 0)
        size = _number(query, "size", 2049, 384)
        return screen.image(well, site, max(size, 16), query.get("channel", "")), "image/png"

    def _json(self, value: Any, status: int) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store" if kind != "image/png" else "max-age=600")
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the browser has gone on
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal holds the address, which should stay in sight."""


def _number(query: dict[str, str], name: str, end: int, default: int | None = None) -> int:
    text = query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit() or int(text) >= end:
        raise InputError(f"{name} must be a number below {end}, not {text!r}.")
    return int(text)
