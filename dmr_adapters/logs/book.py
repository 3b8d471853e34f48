"""The latest lines of the service and of its engines: two rings bounded by bytes, and readers that follow."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import attrs

__all__ = ["Line", "LogBook", "stamp"]

_KEPT: Final = 1024 * 1024
"""Bytes kept of the service's lines, and as many of the engines'."""

_BACKLOG: Final = 256 * 1024
"""Bytes that may wait for one reader who follows."""

_OVERHEAD: Final = 200
"""What a line takes in memory beside its text, roughly."""

_PIECE: Final = 64 * 1024


def stamp(nanoseconds: int) -> str:
    """Nanoseconds since the epoch as log lines begin with them: ``2006-01-02T15:04:05.000000000Z``."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@attrs.frozen(order=True)
class Line:
    """One line, ordered as they are shown: by time, the service's before an engine's."""

    at: int
    engine: bool
    number: int
    text: str = attrs.field(order=False)

    @property
    def size(self) -> int:
        """Bytes it takes in memory, roughly."""
        return len(self.text) + _OVERHEAD

    def __str__(self) -> str:
        return f"[{stamp(self.at)}] {self.text}\n"


class _Ring:
    """The last lines that fit into so many bytes."""

    def __init__(self, limit: int) -> None:
        self.lines: deque[Line] = deque()
        self._limit = limit
        self._size = 0

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self._size += line.size
        while self._size > self._limit and len(self.lines) > 1:
            self._size -= self.lines.popleft().size


class _Reader:
    """One who follows: what waits for them, and how much they missed for being slow."""

    def __init__(self, limit: int, *, engines: bool) -> None:
        self.engines = engines
        self.dropped = 0
        self._limit = limit
        self._waiting: deque[Line] = deque()
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._told = False

    def offer(self, line: Line) -> None:
        """Take a line, or count it as missed. From any thread, under the book's lock."""
        if line.engine and not self.engines:
            return
        if self._size + line.size > self._limit and self._waiting:
            self.dropped += 1
        else:
            self._waiting.append(line)
            self._size += line.size
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._news.set)

    def take(self) -> tuple[list[Line], int]:
        """What came since, and how many lines were missed. Under the book's lock."""
        lines, dropped = list(self._waiting), self.dropped
        self._waiting.clear()
        self._size = self.dropped = 0
        return lines, dropped

    async def news(self) -> None:
        """Return once there is something to :meth:`take`."""
        await self._news.wait()
        self._news.clear()
        self._told = False


class LogBook:
    """Keeps lines. Adding one is quick, never waits for a reader, and may be done in any thread."""

    def __init__(self, *, limit: int = _KEPT, backlog: int = _BACKLOG, clock: Callable[[], int] = time.time_ns) -> None:
        """``limit`` bytes are kept of each kind, ``backlog`` bytes may wait for one reader."""
        self._rings = (_Ring(limit), _Ring(limit))
        self._backlog = backlog
        self._clock = clock
        self._lock = threading.Lock()
        self._readers: set[_Reader] = set()
        self._number = 0
        self._closed = False

    def add(self, text: str, *, engine: bool) -> None:
        """Keep a line without line ends."""
        with self._lock:
            self._number += 1
            line = Line(self._clock(), engine, self._number, text)
            self._rings[engine].add(line)
            for reader in self._readers:
                reader.offer(line)

    async def read(self, *, engines: bool = True, follow: bool = False) -> AsyncGenerator[bytes, None]:
        """The lines there are, oldest first; with ``follow`` also those to come, until :meth:`close`.

        A reader that follows too slowly misses lines, and is told how many.
        """
        with self._following(engines=engines) as (kept, reader):
            for piece in _pieces(kept):
                yield piece
            while follow:
                with self._lock:
                    lines, dropped = reader.take()
                    closed = self._closed
                if dropped:
                    lines.append(self._gap(dropped))
                for piece in _pieces(iter(lines)):
                    yield piece
                if closed:
                    return
                await reader.news()

    def close(self) -> None:
        """Let every reader who follows come to an end. Lines can still be added and read."""
        with self._lock:
            self._closed = True
            for reader in self._readers:
                reader.wake()

    @contextmanager
    def _following(self, *, engines: bool) -> Iterator[tuple[Iterator[Line], _Reader]]:
        """What is kept now, and a reader of everything that comes after it."""
        reader = _Reader(self._backlog, engines=engines)
        with self._lock:
            rings = [list(ring.lines) for ring in self._rings[: 2 if engines else 1]]
            self._readers.add(reader)
        try:
            yield heapq.merge(*rings), reader
        finally:
            with self._lock:
                self._readers.discard(reader)

    def _gap(self, dropped: int) -> Line:
        text = f'time={stamp(self._clock())} level=WARN msg="{dropped} lines left out: they came faster than they were read"'
        return Line(self._clock(), False, 0, text)


def _pieces(lines: Iterator[Line]) -> Iterator[bytes]:
    """Bytes of some lines, so many at a time that a loop can do something else in between."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        piece.append(str(line).encode("utf-8", "replace"))
        size += len(piece[-1])
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)
