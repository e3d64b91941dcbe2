"""The server of the page: loopback only, read-only, and bounded in connections and time."""

import json
import re
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mae_jax.errors import InputError, MachineError
from mae_jax.view.screen import Screen

LOOPBACK = "127.0.0.1"
MAX_CONNECTIONS = 32  # a browser opens about six
REQUEST_TIMEOUT = 10.0  # seconds until a connection must have sent its request
_STATIC = Path(__file__).parent / "static"
_CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"


class ViewServer(ThreadingHTTPServer):
    """Serves one screen on the loopback interface.

    At most `max_connections` are open at once, one thread each; further ones are answered with 503
    at once. A connection that has not sent its request after `request_timeout` seconds is closed.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        screen: Screen,
        port: int = 0,
        *,
        max_connections: int = MAX_CONNECTIONS,
        request_timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        """Bind the port, or a free one for 0.

        Raises:
          InputError: the port is taken or is not a port.
        """
        self.screen = screen
        self.summary = json.dumps(screen.summary()).encode()
        self.request_timeout = request_timeout
        self._slots = threading.BoundedSemaphore(max_connections)
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}  # of connections without a request yet
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"port {port} cannot be bound ({reason}); give another --port, or 0."
            ) from None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection if there is a free slot."""
        if not self._slots.acquire(blocking=False):
            with suppress(OSError):
                request.setblocking(False)
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        with self._lock:
            self._deadlines[request] = time.monotonic() + self.request_timeout
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._release(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle the connection, then free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(request)

    def request_received(self, request: Any) -> None:
        """Note that a connection has sent its request: its answer may take longer."""
        with self._lock:
            self._deadlines.pop(request, None)

    def service_actions(self) -> None:
        """Close connections that are past their deadline; called twice a second."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, deadline in self._deadlines.items() if deadline < now]
            for request in late:
                del self._deadlines[request]
        for request in late:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that break: the terminal shows the address, which should stay."""

    def _release(self, request: Any) -> None:
        self.request_received(request)
        self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    timeout = 60.0  # seconds that a single read or write may take

    def do_GET(self) -> None:
        self.server.request_received(self.connection)
        # A foreign page could make its host name resolve to this machine; the browser still sends
        # that name.
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in (LOOPBACK, "localhost"):
            self._send(403, b"this page is for this machine alone", "text/plain")
            return
        try:
            url = urlsplit(self.path)
            answer = self._answer(url.path, parse_qs(url.query))
        except (InputError, ValueError) as error:
            self._json({"error": str(error)}, 400)
        except MachineError as error:
            self._json({"error": str(error)}, 503)
        except Exception as error:  # an answer in any case; the terminal stays readable
            self._json({"error": f"the server failed: {type(error).__name__}: {error}"}, 500)
        else:
            if answer is None:
                self._json({"error": f"there is no {url.path}"}, 404)
            else:
                self._send(200, *answer)

    def _answer(self, path: str, query: dict[str, list[str]]) -> tuple[bytes, str] | None:
        screen = self.server.screen
        if path == "/" or path.startswith("/static/"):
            return _static(path)
        if path == "/api/screen":
            return self.server.summary, "application/json"
        if path == "/api/projection":
            return _encoded(screen.maps[_number(query, "embedding", len(screen.maps), 0)].state())
        if path not in ("/api/well", "/api/channels", "/api/image"):
            return None
        well = _number(query, "well", len(screen))
        site = _number(query, "site", 10000, 0)
        if path == "/api/channels":
            return _encoded(screen.channels(well, site))
        if path == "/api/well":
            embedding = screen.maps[_number(query, "embedding", len(screen.maps), 0)]
            neighbors = embedding.neighbors(well)
            value = {
                "neighbors": [{"well": i, "cosine": c} for i, c in neighbors],
                "similar": embedding.similarity_to_all(well),
                "sites": screen.sites(well),
            }
            return _encoded(value)
        size = max(_number(query, "size", 2049, 384), 16)
        channels, levels = query.get("channel", []), _levels(query.get("level", []))
        png = screen.image(well, site, size=size, channels=channels, levels=levels)
        return png, "image/png"

    def _json(self, value: Any, status: int) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, content_type: str) -> None:
        with suppress(OSError):  # the browser has closed the connection
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            cache = "max-age=600" if content_type == "image/png" else "no-store"
            self.send_header("Cache-Control", cache)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal shows the address, which should stay in sight."""


def _static(path: str) -> tuple[bytes, str] | None:
    """A file of the page by its name, which must be one that the package has."""
    name = "page.html" if path == "/" else path.removeprefix("/static/")
    known = {file.name: file for file in _STATIC.iterdir()}
    content_type = _CONTENT_TYPES.get(Path(name).suffix)
    if name not in known or content_type is None:
        return None
    return known[name].read_bytes(), f"{content_type}; charset=utf-8"


def _encoded(value: Any) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"


def _number(query: dict[str, list[str]], name: str, end: int, default: int | None = None) -> int:
    text = query.get(name, [None])[-1]
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch("[0-9]{1,9}", text) or int(text) >= end:
        raise InputError(f"{name} must be a number below {end}, not {text!r}.")
    return int(text)


def _levels(texts: list[str]) -> dict[str, tuple[float, float]]:
    """Black and white levels by channel from texts such as `DNA:120:3000`."""
    levels = {}
    for text in texts:
        channel, *numbers = text.rsplit(":", 2)
        try:
            low, high = (float(number) for number in numbers)
        except ValueError:
            raise InputError(f"a level is CHANNEL:LOW:HIGH, not {text!r}.") from None
        levels[channel] = low, high
    return levels
