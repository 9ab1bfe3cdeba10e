"""A server on loopback for tests of downloads."""

from __future__ import annotations

import http.server
import threading
from contextlib import suppress


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by name, with ranges; can misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []  # ranges
        self.cut: list[int] = []  # bytes after which the next answers end
        self.refuse: list[int] = []  # what the next answers are instead
        self.ranges = True
        self.stalled = threading.Event()  # not set: an answer that is cut stays open
        self.stalled.set()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802
        server, content = self.server, self.server.files.get(self.path[1:])
        wanted = self.headers.get("Range", "")
        server.asked.append(wanted)
        first = int(wanted[6:-1]) if wanted and server.ranges else 0
        code = server.refuse.pop(0) if server.refuse else 206 if first else 200
        if content is None:
            code = 404
        elif code < 300 and first >= len(content):
            code = 416
        self.send_response(code)
        body = content[first:] if code < 300 else b""
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = bool(server.cut) and code < 300
        with suppress(ConnectionError):  # who asked may have gone
            self.wfile.write(body[: server.cut.pop(0)] if cut else body)
            self.wfile.flush()
        if cut:
            server.stalled.wait(20)

    def log_message(self, *_) -> None:
        pass
