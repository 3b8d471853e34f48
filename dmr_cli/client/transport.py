"""A small HTTP/1.1 client on raw sockets: TCP, TLS or unix.

``http.client`` would cost as much start-up as everything else a command imports. This one speaks the
part of HTTP that a model runner uses, one connection for each request, and refuses the rest.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from dmr_cli import __version__
from dmr_cli.client.endpoint import Endpoint
from dmr_cli.client.errors import ClientError, ConnectionLostError, InvalidInputError, NotRunningError

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["CONNECT_TIMEOUT", "Response", "Transport", "quote"]

CONNECT_TIMEOUT: Final = 5.0
_HEAD_LIMIT: Final = 64 * 1024
_LINE_LIMIT: Final = 16 * 1024 * 1024
_BODY_LIMIT: Final = 256 * 1024 * 1024
_PIECE: Final = 64 * 1024
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

Body = bytes | Iterable[bytes] | None


def quote(text: str, keep: str = "") -> str:
    """Percent-encode ``text`` for a URL, leaving the characters of ``keep`` alone."""
    safe = _UNRESERVED.union(keep.encode("ascii")) if keep else _UNRESERVED
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


class Response:
    """Status, headers (lower-case names) and a body that can be read once.

    A context manager: leaving it closes the connection, whatever was read of the body.

    Raises (all reading methods):
        ConnectionLostError: the body ended before it was complete.
    """

    def __init__(self, connection: socket.socket, url: str) -> None:
        self._connection = connection
        self._stream: io.BufferedReader = connection.makefile("rb")
        self._url = url
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; may be called more than once."""
        self._stream.close()
        self._connection.close()

    def abort(self) -> None:
        """End a read that another thread is in, and every later one."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def read_head(self) -> None:
        """Read the status line and the headers, passing over interim (1xx) answers."""
        self.status = 100
        budget = _HEAD_LIMIT
        while 100 <= self.status < 200:
            line, budget = self._head_line(budget)
            protocol, _, rest = line.partition(" ")
            code, _, self.reason = rest.partition(" ")
            if not protocol.startswith("HTTP/1.") or len(code) != 3 or not (code.isascii() and code.isdigit()):
                raise ClientError(f"{self._url} does not speak HTTP/1.1: it answered {line[:80]!r}")
            self.status = int(code)
            self.headers = {}
            while True:
                line, budget = self._head_line(budget)
                if not line:
                    break
                name, _, value = line.partition(":")
                self.headers[name.strip().lower()] = value.strip()

    def read(self, limit: int = _BODY_LIMIT) -> bytes:
        """The whole body, refused beyond ``limit`` bytes."""
        pieces: list[bytes] = []
        total = 0
        for piece in self.chunks():
            total += len(piece)
            if total > limit:
                raise ClientError(f"the answer of {self._url} is longer than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def lines(self) -> Iterator[bytes]:
        """The body line by line as it arrives, without line ends; blank lines too."""
        pending = bytearray()
        for piece in self.chunks():
            pending += piece
            *complete, rest = pending.split(b"\n") if b"\n" in piece else (pending,)
            for line in complete:
                yield bytes(line.removesuffix(b"\r"))
            pending = rest
            if len(pending) > _LINE_LIMIT:
                raise ClientError(f"{self._url} sent a line longer than {_LINE_LIMIT} bytes")
        if pending:
            yield bytes(pending.removesuffix(b"\r"))

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, each as soon as it arrives."""
        try:
            if self.status in (204, 304):
                return
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                yield from self._chunked()
            elif "content-length" in self.headers:
                yield from self._counted(self._number(self.headers["content-length"], 10))
            else:
                while piece := self._stream.read1(_PIECE):
                    yield piece
        except OSError as error:
            raise self._lost() from error

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size_text = self._framing_line().partition(b";")[0].strip().decode("latin-1")
            size = self._number(size_text, 16)
            if size == 0:
                break
            yield from self._counted(size)
            if self._framing_line():
                raise ClientError(f"{self._url} sent a chunk that does not end where it said")
        while self._framing_line():
            pass  # trailers mean nothing to us

    def _counted(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._stream.read1(min(size, _PIECE))
            if not piece:
                raise self._lost()
            size -= len(piece)
            yield piece

    def _number(self, text: str, base: int) -> int:
        try:
            number = int(text, base) if text.isascii() and text.isalnum() and len(text) <= 16 else -1
        except ValueError:
            number = -1
        if number < 0:
            raise ClientError(f"{self._url} sent a body of unreadable length {text[:40]!r}")
        return number

    def _framing_line(self) -> bytes:
        line = self._stream.readline(_HEAD_LIMIT)
        if not line.endswith(b"\n"):
            raise self._lost()
        return line.rstrip(b"\r\n")

    def _head_line(self, budget: int) -> tuple[str, int]:
        try:
            line = self._stream.readline(budget + 1)
        except OSError as error:
            raise self._lost() from error
        if len(line) > budget:
            raise ClientError(f"{self._url} sent more than {_HEAD_LIMIT} bytes of headers")
        if not line.endswith(b"\n"):
            raise self._lost()
        return line.rstrip(b"\r\n").decode("latin-1"), budget - len(line)

    def _lost(self) -> ConnectionLostError:
        where = "before it answered" if self.status == 100 else "in the middle of its answer"
        return ConnectionLostError(f"{self._url} closed the connection {where}")


class Transport:
    """Sends requests to one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def request(
        self, method: str, path: str, *, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request; return when status and headers of the answer are here.

        ``path`` is escaped already and may end in a query. A body of ``bytes`` goes with its length,
        any other iterable as chunks, read while it is sent. There is no timeout after connecting:
        loading a model takes as long as it takes.

        Raises:
            NotRunningError: nothing listens there.
            ConnectionLostError: the connection broke before the answer was there.
        """
        connection = self._connect()
        response = Response(connection, self.endpoint.url)
        try:
            broken: OSError | None = None
            try:
                connection.sendall(self._head(method, path, body, headers or {}))
                if body is not None and not isinstance(body, bytes):
                    _send_chunks(connection, body)
            except (BrokenPipeError, ConnectionResetError) as error:
                broken = error  # a server may refuse a body early: its answer says why
            try:
                response.read_head()
            except ConnectionLostError as lost:
                raise lost from broken
        except BaseException:
            response.close()
            raise
        return response

    def _head(self, method: str, path: str, body: Body, headers: Mapping[str, str]) -> bytes:
        fields = {
            "Host": self.endpoint.authority,
            "User-Agent": f"dmr/{__version__}",
            "Accept": "application/json",
            "Connection": "close",
        }
        if isinstance(body, bytes):
            fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        elif body is not None:
            fields["Transfer-Encoding"] = "chunked"
        elif method not in ("GET", "HEAD"):
            fields["Content-Length"] = "0"
        if self.endpoint.api_key:
            fields["Authorization"] = f"Bearer {self.endpoint.api_key}"
        fields.update(headers)
        lines = [f"{method} {self.endpoint.base_path}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head + body if isinstance(body, bytes) else head

    def _connect(self) -> socket.socket:
        endpoint = self.endpoint
        try:
            if endpoint.socket_path:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    connection.settimeout(CONNECT_TIMEOUT)
                    connection.connect(endpoint.socket_path)
                except BaseException:
                    connection.close()
                    raise
            else:
                connection = socket.create_connection((_host(endpoint.host), endpoint.port), CONNECT_TIMEOUT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if endpoint.tls:
                    connection = _wrap_tls(connection, endpoint)
        except (OSError, UnicodeError) as error:
            raise NotRunningError(_unreachable(endpoint, error)) from error
        connection.settimeout(None)
        return connection


def _host(host: str) -> str:
    # A host of type str makes Python load its IDNA codec (3 ms), which plain ASCII does not need. The
    # resolver takes bytes as well; typeshed does not say so.
    return host.encode("ascii") if host.isascii() else host  # type: ignore[return-value]


def _send_chunks(connection: socket.socket, body: Iterable[bytes]) -> None:
    for piece in body:
        if piece:
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    connection.sendall(b"0\r\n\r\n")


def _wrap_tls(connection: socket.socket, endpoint: Endpoint) -> socket.socket:
    import ssl  # noqa: PLC0415 - tens of milliseconds that plain connections need not pay

    try:
        context = _context(ssl, endpoint)
        return context.wrap_socket(connection, server_hostname=endpoint.host)
    except ssl.SSLCertVerificationError as error:
        connection.close()
        raise ClientError(
            f"the certificate of {endpoint.url} is not trusted: {error.verify_message}. "
            "Name its authority in MODEL_RUNNER_TLS_CA_CERT"
        ) from error
    except BaseException:
        connection.close()
        raise


def _context(ssl: ModuleType, endpoint: Endpoint) -> SSLContext:
    try:
        context: SSLContext = ssl.create_default_context(cafile=endpoint.ca_file or None)
    except OSError as error:  # ssl.SSLError is one, too
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidInputError(
            f"cannot use the certificate {endpoint.ca_file!r}: {reason}. Set MODEL_RUNNER_TLS_CA_CERT to a PEM file"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(endpoint: Endpoint, error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        reason = "connection refused"
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such socket"
    elif isinstance(error, TimeoutError):
        reason = f"no connection within {CONNECT_TIMEOUT:g} s"
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        reason = "not a host name"
    hint = ". Start it with: dmr serve" if isinstance(error, (ConnectionRefusedError, FileNotFoundError)) else ""
    return f"cannot reach dmr at {endpoint.url}: {reason}{hint}"
