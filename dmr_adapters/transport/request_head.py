"""What both transports make of a request: its framing is theirs, the rest is the caller's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from dmr_core.errors import InvalidRequestError
from dmr_core.ports.transport import Endpoint, Headers, UpstreamRequest

__all__ = ["check_target", "describe", "outgoing_headers", "render_request"]

# How long the body is and whether the connection lives on is said by us, or it may be said twice.
_OURS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_PATH: Final = re.compile(r"/[!\"$-~]*")  # visible ASCII, but no fragment
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


def describe(endpoint: Endpoint) -> str:
    """An engine as clients may see it: without the path of its socket."""
    return endpoint.socket.name if endpoint.socket is not None else f"{endpoint.host}:{endpoint.port}"


def check_target(request: UpstreamRequest) -> None:
    """Refuse a request line that would not be one line of three words.

    Raises:
        InvalidRequestError: names what is wrong.
    """
    if not _METHOD.fullmatch(request.method):
        raise InvalidRequestError(f"invalid method {request.method!r}")
    if not _PATH.fullmatch(request.path):
        raise InvalidRequestError(f"invalid path {request.path!r}")


def outgoing_headers(headers: Headers) -> Iterator[tuple[bytes, bytes]]:
    """The fields to send, less those that the transport decides.

    Raises:
        InvalidRequestError: a field could be read as more than one.
    """
    for name, value in headers:
        if name.lower() in _OURS:
            continue
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise InvalidRequestError(f"invalid header field {name.decode('latin-1')!r}")
        yield name, value


def render_request(request: UpstreamRequest) -> bytes:
    """The head of a request with an explicit length, ready for a socket.

    Raises:
        InvalidRequestError: it cannot be sent as one well-formed head.
    """
    check_target(request)
    parts = [f"{request.method} {request.path} HTTP/1.1\r\n".encode("ascii")]
    host = b"host: localhost\r\n"
    for name, value in outgoing_headers(request.headers):
        if name.lower() == b"host":
            host = b""
        parts.append(b"%b: %b\r\n" % (name, value))
    parts.append(host)
    if request.body or request.method not in _WITHOUT_BODY:
        parts.append(b"content-length: %d\r\n" % len(request.body))
    parts.append(b"\r\n")
    return b"".join(parts)
