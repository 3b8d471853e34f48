"""HTTP/1.1 responses from bytes: as much as engines send, and nothing ambiguous.

A parser that guesses is how one response becomes two. Where RFC 9112 leaves a choice between
repairing and refusing, this one refuses: both lengths at once, lengths that differ, chunk sizes
that are not plain hexadecimal, bare line feeds, folded lines, control characters.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from dmr_core.ports.transport import Headers

__all__ = ["MalformedResponseError", "ResponseParser"]

_LONGEST_HEAD: Final = 64 * 1024
_LONGEST_CHUNK_LINE: Final = 4 * 1024
_MOST_INTERIM: Final = 16

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class MalformedResponseError(Exception):
    """The peer does not speak HTTP/1.1 as we understand it. The connection is good for nothing more."""


class _State(IntEnum):
    HEAD = 0
    LENGTH = 1
    CHUNK_SIZE = 2
    CHUNK_DATA = 3
    CHUNK_END = 4
    TRAILER = 5
    UNTIL_CLOSE = 6
    DONE = 7


class ResponseParser:
    """One response. Feed it bytes; once ``has_head``, take its body. Does no I/O.

    ``buffered`` bytes of body wait to be taken. ``reusable`` says, once it is ``complete``, whether
    the connection may carry another request.
    """

    __slots__ = (
        "_body",
        "_interim",
        "_no_body",
        "_partial",
        "_remaining",
        "_state",
        "_trailer",
        "buffered",
        "complete",
        "has_head",
        "headers",
        "reusable",
        "status",
    )

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.has_head = False
        self.complete = False
        self.reusable = False
        self.buffered = 0
        self._no_body = method == "HEAD"
        self._state = _State.HEAD
        self._partial = b""
        self._remaining = 0
        self._trailer = 0
        self._interim = 0
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take what the peer sent next.

        Raises:
            MalformedResponseError: it broke the rules; what was parsed before stays readable.
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position = 0
        end = len(data)
        while position < end:
            match self._state:
                case _State.CHUNK_SIZE:
                    position = self._chunk_size(data, position)
                case _State.CHUNK_DATA | _State.LENGTH:
                    position = self._counted(data, position, end)
                case _State.CHUNK_END:
                    position = self._chunk_end(data, position)
                case _State.HEAD:
                    position = self._head(data, position)
                case _State.UNTIL_CLOSE:
                    self._keep(data[position:] if position else data)
                    return
                case _State.TRAILER:
                    position = self._trailer_line(data, position)
                case _State.DONE:
                    self.reusable = False  # it sent what nobody asked for
                    return
            if position < 0:  # an incomplete line, kept for the next time
                return

    def eof(self) -> bool:
        """The peer closed the connection: whether the response is complete now."""
        if self._state is _State.UNTIL_CLOSE:
            self._done()
        self.reusable = False
        return self.complete

    def take(self) -> bytes:
        """All of the body that has arrived and was not taken yet."""
        body = self._body
        taken = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        self.buffered = 0
        return taken

    # --- body ---------------------------------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        self._body.append(data)
        self.buffered += len(data)

    def _done(self) -> None:
        self._state = _State.DONE
        self.complete = True

    def _counted(self, data: bytes, position: int, end: int) -> int:
        stop = position + self._remaining
        stop = min(stop, end)
        self._remaining -= stop - position
        self._keep(data[position:stop] if position or stop < end else data)
        if not self._remaining:
            if self._state is _State.LENGTH:
                self._done()
            else:
                self._state = _State.CHUNK_END
        return stop

    def _chunk_size(self, data: bytes, position: int) -> int:
        stop = data.find(b"\r\n", position, position + _LONGEST_CHUNK_LINE)
        if stop < 0:
            return self._incomplete(data, position, _LONGEST_CHUNK_LINE, "chunk size line")
        found = _CHUNK_LINE.fullmatch(data, position, stop)
        if not found:
            raise MalformedResponseError(f"invalid chunk size {data[position : min(stop, position + 20)]!r}")
        self._remaining = int(found[1], 16)
        self._state = _State.CHUNK_DATA if self._remaining else _State.TRAILER
        return stop + 2

    def _chunk_end(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self._state = _State.CHUNK_SIZE
            return position + 2
        if data[position:] != b"\r":
            raise MalformedResponseError("a chunk is longer than it said")
        self._partial = b"\r"
        return -1

    def _trailer_line(self, data: bytes, position: int) -> int:
        stop = data.find(b"\r\n", position, position + _LONGEST_HEAD)
        if stop < 0:
            return self._incomplete(data, position, _LONGEST_HEAD, "trailer")
        if stop == position:
            self._done()
        else:
            _parse_field(data[position:stop])  # checked, as it delimits, but of no use to anybody
            self._trailer += stop - position
            if self._trailer > _LONGEST_HEAD:
                raise MalformedResponseError("the trailer is too long")
        return stop + 2

    def _incomplete(self, data: bytes, position: int, limit: int, what: str) -> int:
        if len(data) - position >= limit:
            raise MalformedResponseError(f"the {what} is too long")
        self._partial = data[position:]
        return -1

    # --- head ---------------------------------------------------------------------------------------

    def _head(self, data: bytes, position: int) -> int:
        stop = data.find(b"\r\n\r\n", position, position + _LONGEST_HEAD)
        if stop < 0:
            if not data.startswith(b"HTTP/"[: len(data) - position], position):
                raise MalformedResponseError("it does not speak HTTP")
            return self._incomplete(data, position, _LONGEST_HEAD, "head")
        first, *lines = data[position:stop].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(first)
        if not found:
            raise MalformedResponseError(f"invalid status line {first[:40]!r}")
        status = int(found[2])
        headers = tuple(map(_parse_field, lines))
        if status >= 200:
            self.status = status
            self.headers = headers
            self._frame(status, headers, is_old=found[1] == b"0")
            self.has_head = True
        else:
            self._interim += 1
            if status == 101 or self._interim > _MOST_INTERIM:
                raise MalformedResponseError(f"unexpected status {status}")
        return stop + 4

    def _frame(self, status: int, headers: Headers, *, is_old: bool) -> None:
        """Decide how long the body is (RFC 9112 section 6.3), before a byte of it is believed."""
        lengths = set()
        codings = []
        options = b""
        for name, value in headers:
            if name == b"content-length":
                lengths.add(value)
            elif name == b"transfer-encoding":
                codings.append(value.lower())
            elif name == b"connection":
                options += b"," + value.lower()
        if codings and (lengths or is_old):
            raise MalformedResponseError("transfer-encoding where it cannot be")
        if codings and codings != [b"chunked"]:
            raise MalformedResponseError(f"unknown transfer-encoding {b', '.join(codings)[:40]!r}")
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise MalformedResponseError(f"invalid content-length {b', '.join(lengths)[:40]!r}")
        tokens = {token.strip() for token in options.split(b",")} if options else ()
        self.reusable = b"keep-alive" in tokens if is_old else b"close" not in tokens
        if self._no_body or status in {204, 304}:
            self._done()
        elif codings:
            self._state = _State.CHUNK_SIZE
        elif lengths:
            self._remaining = int(lengths.pop())
            self._state = _State.LENGTH
            if not self._remaining:
                self._done()
        else:
            self._state = _State.UNTIL_CLOSE
            self.reusable = False


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name):  # a folded line has no name either
        raise MalformedResponseError(f"invalid header field {line[:40]!r}")
    if _BAD_VALUE.search(value):
        raise MalformedResponseError(f"invalid value of header field {name[:40]!r}")
    return name.lower(), value.strip(b" \t")
