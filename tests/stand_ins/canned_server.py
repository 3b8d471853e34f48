"""A service that answers what it was told to and remembers what it was asked.

Features: TCP loopback, with TLS where it is given a context, or a unix socket; answers by method and path (with or without their query), one
after another with the last one repeated; bodies of known length or in chunks, where an
``threading.Event`` among the chunks holds the rest back until the test sets it; answers cut off in the
middle.
"""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Answer", "CannedServer", "Request"]

_PATIENCE = 20.0


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What it gets. ``chunks`` go with chunked coding; ``cut`` drops the connection before the end. ``hold`` keeps all
    of it back until it is set.
    """

    status: int = 200
    body: bytes = b""
    chunks: Sequence[bytes | threading.Event] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hold: threading.Event | None = None


class CannedServer:
    """A context manager; leaving it waits for every thread."""

    def __init__(self, unix_socket: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        handler = type("Handler", (_Handler,), {"canned": self})
        if unix_socket is None:
            server: _TcpServer | _UnixServer = _TcpServer(("127.0.0.1", 0), handler)
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.socket.getsockname()[1]}"
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
        else:
            server = _UnixServer(str(unix_socket), handler)
            self.url = f"unix://{unix_socket}"
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on(self, method: str, path: str, *answers: Answer | object) -> None:
        """Answer these requests so; anything that is no ``Answer`` is sent as JSON."""
        self._answers[method, path] = [
            answer if isinstance(answer, Answer) else Answer(body=json.dumps(answer).encode()) for answer in answers
        ]

    def take(self, request: Request) -> Answer:
        self.requests.append(request)
        for path in (request.path, request.path.partition("?")[0]):
            if answers := self._answers.get((request.method, path)):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return Answer(404, f"no answer for {request.method} {request.path}\n".encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    canned: CannedServer

    def _serve(self) -> None:
        request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self._body())
        answer = self.canned.take(request)
        if answer.hold is not None:
            answer.hold.wait(_PATIENCE)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunks is None:
            self.send_header("Content-Length", str(len(answer.body) + (10 if answer.cut else 0)))
            self.end_headers()
            self.wfile.write(answer.body)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._chunks(answer)
        self.close_connection = True

    def _chunks(self, answer: Answer) -> None:
        for chunk in answer.chunks or ():
            if isinstance(chunk, threading.Event):
                chunk.wait(_PATIENCE)
            else:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if not answer.cut:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
        """Say nothing."""


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is none of a test's business."""


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = False

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """As above."""
