"""A registry that writes its answers byte by byte, so that it can break HTTP in every way there is.

It serves one model at ``ai/model``. For each request it takes the next fault of its plan; none left, it is honest.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Final

import attrs

from dmr_core.domain.reference import Reference
from dmr_core.testing.contracts.registry import Sample

__all__ = ["Fault", "RawRegistry", "raw_registry"]

_RANGE: Final = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_PIECE: Final = 256 * 1024


class Fault(StrEnum):
    """What goes wrong with one answer."""

    NONE = "nothing"
    STALL_BEFORE_HEAD = "stall before the head"
    STALL_IN_HEAD = "stall in the head"
    STALL_IN_BODY = "stall in the body"
    RESET_IN_HEAD = "reset in the head"
    RESET_IN_BODY = "reset in the body"
    END_IN_BODY = "end in the body"
    RANGE_START = "range with another start"
    RANGE_END = "range with another end"
    RANGE_TOTAL = "range of another total"
    WHOLE_AS_PART = "206 with everything"
    WHOLE_FOR_PART = "200 to a range"
    UNSATISFIABLE = "416"
    TOO_LONG = "more bytes than announced"
    WRONG_LENGTH = "another length than the descriptor's"
    CHUNKED = "chunked"
    CHUNKED_BROKEN = "broken chunks"
    UNFRAMED = "no length, until the end of the connection"
    ENCODED = "an encoding nobody asked for"
    REDIRECT_AWAY = "redirect to another origin"
    REDIRECT_LOOP = "redirect to itself"
    REDIRECT_INSIDE = "redirect to the metadata service"
    REDIRECT_GARBAGE = "redirect to no address"
    FLIPPED = "one wrong byte"
    DRIP = "drip"
    BUSY = "429"
    BUSY_FOR_EVER = "429 for ever"
    BUSY_GARBAGE = "429 until nonsense"
    BROKEN = "500"
    AWAY = "503"
    LOCKED = "401 with the realm of another"
    LOCKED_INSIDE = "401 with the metadata service as realm"
    HUGE_HEAD = "a head without end"
    GARBAGE = "no HTTP"
    TRAILING = "garbage after the body"


@attrs.define(eq=False)
class RawRegistry:
    """The server. ``sent`` counts bytes of layers; ``elsewhere`` are the heads that its second origin received."""

    model: Sample
    faults: Iterator[Fault] = attrs.field(factory=lambda: iter(()))
    cut: Callable[[int], int] = lambda length: length // 2
    port: int = 0
    other_port: int = 0
    sent: int = 0
    elsewhere: list[str] = attrs.field(factory=list)
    met: list[Fault] = attrs.field(factory=list)
    _released: asyncio.Event = attrs.field(factory=asyncio.Event)
    _busy: set[asyncio.Task[None]] = attrs.field(factory=set)

    @property
    def reference(self) -> Reference:
        """The model it has."""
        return Reference(f"127.0.0.1:{self.port}", "ai/model")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if "authorization:" not in head.lower():  # so that there is a login, and a cookie, to give away
                    writer.write(_CHALLENGE)
                    continue
                fault = next(self.faults, Fault.NONE)
                self.met.append(fault)
                if not await self._answer(head, writer, fault):
                    break
        writer.close()

    async def serve_elsewhere(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The second origin: has the blobs, and wants no credentials."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.elsewhere.append(head)
                await self._answer(head, writer, Fault.NONE)
        writer.close()

    def stop(self) -> None:
        """Let everybody go who is kept waiting."""
        self._released.set()

    async def _answer(self, head: str, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        """Answer one request; whether the connection goes on."""
        path = head.split(" ", 2)[1]
        body = self._content(path)
        if fault in _REFUSALS:
            text = _REFUSALS[fault].format(path=path, port=self.port, other=self.other_port)
            writer.write(f"HTTP/1.1 {text}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        if body is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        if fault is Fault.STALL_BEFORE_HEAD:
            await self._released.wait()
            return False
        if fault is Fault.HUGE_HEAD:
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-Fill: " + b"x" * 200_000)
            return False
        if fault is Fault.GARBAGE:
            writer.write(b"\x00\xff no HTTP at all\r\n\r\n" * 10)
            return False
        start, end, status, headers = self._head(head, body, fault)
        content = body[start:end]
        if fault is Fault.FLIPPED and content:
            where = self.cut(len(content)) % len(content)
            content = content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]
        return await self._send(writer, f"HTTP/1.1 {status}\r\n{headers}\r\n".encode(), content, fault, path)

    def _content(self, path: str) -> bytes | None:
        kind, _, name = path.removeprefix("/v2/ai/model/").partition("/")
        artifact = self.model.artifact
        if kind == "manifests":
            return artifact.manifest_bytes
        blobs = {str(artifact.manifest.config.digest): artifact.config_bytes}
        blobs[str(artifact.manifest.layers[0].digest)] = self.model.layer
        return blobs.get(name)

    def _head(self, head: str, body: bytes, fault: Fault) -> tuple[int, int, str, str]:
        asked = _RANGE.search(head)
        start, end, status = 0, len(body), "200 OK"
        spans = ""
        if asked and fault is not Fault.WHOLE_FOR_PART:
            start, end = int(asked[1]), int(asked[2]) + 1 if asked[2] else len(body)
            status, told, last, total = "206 Partial Content", start, end - 1, len(body)
            told += fault is Fault.RANGE_START
            last -= fault is Fault.RANGE_END
            total += fault is Fault.RANGE_TOTAL
            if fault is Fault.WHOLE_AS_PART:
                start, end = 0, len(body)
            spans = f"Content-Range: bytes {told}-{last}/{total}\r\n"
        length = end - start + (fault is Fault.WRONG_LENGTH)
        framing = f"Content-Length: {length}\r\n"
        if fault in {Fault.CHUNKED, Fault.CHUNKED_BROKEN}:
            framing = "Transfer-Encoding: chunked\r\n"
        elif fault is Fault.UNFRAMED:
            framing = "Connection: close\r\n"
        elif fault is Fault.ENCODED:
            framing += "Content-Encoding: gzip\r\n"
        return start, end, status, f"Content-Type: {self.model.artifact.manifest.media_type}\r\n{spans}{framing}"

    async def _send(self, writer: asyncio.StreamWriter, head: bytes, content: bytes, fault: Fault, path: str) -> bool:
        if fault in {Fault.STALL_IN_HEAD, Fault.RESET_IN_HEAD}:
            writer.write(head[: self.cut(len(head))])
            return await self._leave(writer, fault)
        writer.write(head)
        if fault in {Fault.CHUNKED, Fault.CHUNKED_BROKEN}:
            for position in range(0, len(content), _PIECE):
                piece = content[position : position + _PIECE]
                size = f"{len(piece):x}" if fault is Fault.CHUNKED else "zz"
                writer.write(f"{size}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            self._count(path, len(content))
            return fault is Fault.CHUNKED
        if fault is Fault.DRIP:
            for position in range(len(content)):
                writer.write(content[position : position + 1])
                await writer.drain()
                try:
                    async with asyncio.timeout(0.02):
                        await self._released.wait()
                except TimeoutError:
                    continue
                return False
        stops = fault in {Fault.STALL_IN_BODY, Fault.RESET_IN_BODY, Fault.END_IN_BODY}
        wanted = self.cut(len(content)) if stops else len(content)
        for position in range(0, wanted, _PIECE):
            piece = content[position : min(position + _PIECE, wanted)]
            writer.write(piece)
            await writer.drain()
            self._count(path, len(piece))
        if stops:
            return await self._leave(writer, fault)
        if fault in {Fault.TOO_LONG, Fault.TRAILING}:
            writer.write(b"and more than was announced\r\n\r\n")
        return fault not in {Fault.UNFRAMED, Fault.WRONG_LENGTH, Fault.TOO_LONG, Fault.TRAILING}

    def _count(self, path: str, count: int) -> None:
        if path.endswith(str(self.model.artifact.manifest.layers[0].digest)):
            self.sent += count

    async def _leave(self, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        await writer.drain()
        if fault in {Fault.STALL_IN_HEAD, Fault.STALL_IN_BODY}:
            await self._released.wait()
        elif fault is not Fault.END_IN_BODY:
            opened = writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


_CHALLENGE: Final = (
    b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="here"\r\n'
    b"Set-Cookie: secret=the-secret; Path=/\r\nContent-Length: 0\r\n\r\n"
)
_REFUSALS: Final = {
    Fault.UNSATISFIABLE: "416 Range Not Satisfiable",
    Fault.REDIRECT_AWAY: "307 Temporary Redirect\r\nLocation: http://127.0.0.1:{other}{path}",
    Fault.REDIRECT_LOOP: "307 Temporary Redirect\r\nLocation: {path}",
    Fault.REDIRECT_INSIDE: "307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest/meta-data",
    Fault.REDIRECT_GARBAGE: "307 Temporary Redirect\r\nLocation: gopher://[nowhere",
    Fault.BUSY: "429 Too Many Requests\r\nRetry-After: 1",
    Fault.BUSY_FOR_EVER: "429 Too Many Requests\r\nRetry-After: 999999999",
    Fault.BUSY_GARBAGE: "429 Too Many Requests\r\nRetry-After: soon",
    Fault.BROKEN: "500 Internal Server Error",
    Fault.AWAY: "503 Service Unavailable",
    Fault.LOCKED: '401 Unauthorized\r\nWWW-Authenticate: Bearer realm="http://127.0.0.1:{other}/token",service="x"',
    Fault.LOCKED_INSIDE: '401 Unauthorized\r\nWWW-Authenticate: Bearer realm="http://169.254.169.254/t",service="x"',
}


@asynccontextmanager
async def raw_registry(model: Sample) -> AsyncIterator[RawRegistry]:
    """Run one, with its second origin."""
    registry = RawRegistry(model)
    tasks: set[asyncio.Task[None]] = set()

    def handler(
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(serve(reader, writer))  # type: ignore[call-overload]
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        return accept

    servers = [
        await asyncio.start_server(handler(serve), "127.0.0.1", 0)
        for serve in (registry.serve, registry.serve_elsewhere)
    ]
    registry.port, registry.other_port = (server.sockets[0].getsockname()[1] for server in servers)
    try:
        yield registry
    finally:
        registry.stop()
        for server in servers:
            server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in servers:
            await server.wait_closed()
