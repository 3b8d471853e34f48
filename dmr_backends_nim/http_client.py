"""A small HTTP/1.1 client for two servers that are trusted to be no attacker, and not to be well: the Docker Engine on
its socket, and a container on its loopback port.

One connection for each request. Everything that is read is bounded in size and, unless it may go on for as long as it
likes, in time (RFC 9112 for the framing).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from dmr_core.errors import UpstreamError

__all__ = ["Answer", "HttpClient", "NoAnswerError"]

_MAX_HEAD: Final = 64 * 1024
_PIECE: Final = 64 * 1024
_MAX_BODY: Final = 64 * 1024 * 1024
_MAX_LINE: Final = 1024 * 1024


class NoAnswerError(UpstreamError):
    """Nobody listens, or whoever does broke off or kept silent."""


@attrs.define(eq=False)
class Answer:
    """Status, headers (lower-case names), and a body to be read once."""

    status: int
    headers: dict[str, str]
    _reader: asyncio.StreamReader
    _where: str
    _patience: float | None

    async def read(self, limit: int = _MAX_BODY) -> bytes:
        """The whole body.

        Raises:
            NoAnswerError: it ended early, took too long, or is longer than ``limit`` bytes.
        """
        parts, size = [], 0
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise NoAnswerError(f"{self._where} sent more than {limit} bytes")
                parts.append(chunk)
        return b"".join(parts)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The body line by line, without line ends; blank ones are left out."""
        pending = b""
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                *complete, pending = (pending + chunk).split(b"\n")
                for line in complete:
                    if line.strip():
                        yield line.strip()
                if len(pending) > _MAX_LINE:
                    raise NoAnswerError(f"{self._where} sent a line longer than {_MAX_LINE} bytes")
        if pending.strip():
            yield pending.strip()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives."""
        if self.status in (204, 304):
            return
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                async for piece in self._chunked():
                    yield piece
            elif "content-length" in self.headers:
                async for piece in self._counted(_number(self.headers["content-length"], 10)):
                    yield piece
            else:
                while piece := await self._in_time(self._reader.read(_PIECE)):
                    yield piece
        except (OSError, EOFError, ValueError) as exc:
            raise NoAnswerError(f"{self._where} broke off in the middle of its answer") from exc

    async def _chunked(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._in_time(self._reader.readuntil(b"\n"))
            size = _number(line.partition(b";")[0].strip().decode("latin-1"), 16)
            if size == 0:
                return  # trailers mean nothing to us, and the connection ends here
            async for piece in self._counted(size):
                yield piece
            await self._in_time(self._reader.readuntil(b"\n"))

    async def _counted(self, size: int) -> AsyncIterator[bytes]:
        while size:
            piece = await self._in_time(self._reader.read(min(size, _PIECE)))
            if not piece:
                raise EOFError
            size -= len(piece)
            yield piece

    async def _in_time(self, reading: object) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                piece: bytes = await reading  # type: ignore[misc]
        except TimeoutError as exc:
            raise NoAnswerError(f"{self._where} sent nothing for {self._patience:g} s") from exc
        except asyncio.LimitOverrunError as exc:
            raise ValueError("a line is too long") from exc
        return piece


@attrs.frozen
class HttpClient:
    """Sends requests to a unix socket, or to a port of the loopback interface."""

    socket: Path | None = None
    port: int = 0

    @property
    def where(self) -> str:
        """The address, for people."""
        return f"unix://{self.socket}" if self.socket is not None else f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def send(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
        patience: float | None = 30.0,
    ) -> AsyncGenerator[Answer, None]:
        """Send a request; inside the context is its answer, whose head has arrived within ``timeout`` seconds.

        ``patience`` is how many seconds may pass without a byte of the body; ``None``: as many as it takes. Leaving the
        context closes the connection, which is how a request is cancelled.

        Raises:
            NoAnswerError: there is none.
        """
        try:
            async with asyncio.timeout(timeout):
                if self.socket is not None:
                    reader, writer = await asyncio.open_unix_connection(self.socket, limit=_MAX_HEAD)
                else:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_MAX_HEAD)
        except (OSError, TimeoutError) as exc:
            reason = getattr(exc, "strerror", None) or f"no connection within {timeout:g} s"
            raise NoAnswerError(f"nobody answers at {self.where}: {reason}") from exc
        try:
            try:
                async with asyncio.timeout(timeout):
                    writer.write(_head(method, target, body, headers or {}))
                    await writer.drain()
                    status, fields = await _read_head(reader)
            except TimeoutError as exc:
                raise NoAnswerError(
                    f"{self.where} did not answer {method} {target.partition('?')[0]} within {timeout:g} s"
                ) from exc
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
                raise NoAnswerError(f"{self.where} broke off before it answered, or does not speak HTTP") from exc
            yield Answer(status, fields, reader, self.where, patience)
        finally:
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()


def _head(method: str, target: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    fields = {"Host": "localhost", "Connection": "close", "User-Agent": "dmr-backends-nim", **headers}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    elif method == "POST":
        fields["Content-Length"] = "0"
    text = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return (text + "\r\n").encode("ascii") + (body or b"")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip("\r\n").split("\r\n")
        protocol, _, rest = status_line.partition(" ")
        if not protocol.startswith("HTTP/1."):
            raise ValueError("not HTTP/1.1")
        status = _number(rest[:3], 10)
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
        if status >= 200:
            return status, fields


def _number(text: str, base: int) -> int:
    if not (text.isascii() and text.isalnum() and len(text) <= 16):
        raise ValueError("not a number")
    return int(text, base)
