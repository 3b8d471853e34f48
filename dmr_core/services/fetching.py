"""Bringing blobs into the store: in parts, several at once, each going on where it was interrupted."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs

from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.spans import Span
from dmr_core.errors import DigestMismatchError, RegistryError, RegistryUnreachableError
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_store import BlobWriter, ModelStore, PartWriter
from dmr_core.ports.registry import BlobReader
from dmr_core.services.streams import FetchLimits, StreamGate, StreamGates

__all__ = ["FetchLimits", "FetchingService", "OpenBlob"]

OpenBlob = Callable[[int, int | None], AbstractAsyncContextManager[BlobReader]]
"""Opens a blob at its origin, from an offset up to an end."""

_NOTICEABLE: Final = 1024 * 1024


class FetchingService:
    """Fetches blobs of any origin. All fetches together share its connections."""

    def __init__(
        self,
        *,
        store: ModelStore,
        clock: Clock,
        limits: FetchLimits | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits or FetchLimits()
        self._gates = StreamGates(self._limits, clock)
        self._jitter = jitter

    async def fetch(
        self,
        descriptor: Descriptor,
        open_blob: OpenBlob,
        *,
        host: str,
        advance: Callable[[int], None],
        distrust: Callable[[], bool] = lambda: False,
    ) -> int:
        """Bring a blob into the store; how many bytes were received for it. One that is here already costs nothing.

        ``host`` is whom the connections count against. ``advance`` is told how many of the blob's bytes are here; the
        number may fall, when bytes prove wrong; ``distrust`` is then asked whether ``open_blob`` has somebody else to
        get them from. Whatever ends this, what was received is kept for the next attempt.

        Raises:
            DigestMismatchError: the origin sends other bytes than the descriptor promises.
            RegistryUnreachableError: nothing more came, or not enough, for as long as the limits say.
            RegistryError, UnauthorizedError, StorageFullError, StoreUnwritableError: as said.
        """
        received = 0
        async with self._store.write_blob(descriptor) as writer:
            # What an earlier attempt left is not verified before the end: it may be what is wrong.
            doubtful = writer.resumed > 0
            while True:
                work = _Fetch(
                    descriptor=descriptor,
                    open_blob=open_blob,
                    writer=writer,
                    gate=self._gates.of(host),
                    clock=self._clock,
                    limits=self._limits,
                    jitter=self._jitter,
                    advance=advance,
                )
                try:
                    await work.run()
                    await writer.commit()
                    break
                except DigestMismatchError:
                    if not doubtful and not distrust():
                        raise
                    doubtful = False
                finally:
                    received += work.received
        advance(descriptor.size)
        return received


@attrs.define
class _Pace:
    """Tells a connection that drips from one that flows."""

    clock: Clock
    limits: FetchLimits
    bytes: int = 0
    is_stalled: bool = False
    _since: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since = self.clock.monotonic()

    def came(self, count: int) -> None:
        """Note bytes that came in."""
        self.bytes += count
        now = self.clock.monotonic()
        if now - self._since >= self.limits.slow_window:
            self.is_stalled = self.bytes < self.limits.slow_bytes
            if not self.is_stalled:
                self._since, self.bytes = now, 0


class _RangesRefusedError(Exception):
    """The origin sends everything whatever it is asked for."""


@attrs.define(eq=False, kw_only=True)
class _Fetch:
    """One blob on its way. ``done`` counts the bytes that are here, ``received`` those that came in."""

    descriptor: Descriptor
    open_blob: OpenBlob
    writer: BlobWriter
    gate: StreamGate
    clock: Clock
    limits: FetchLimits
    jitter: Callable[[], float]
    advance: Callable[[int], None]
    received: int = 0
    _done: int = 0
    _last_byte: float = attrs.field(init=False)
    _parts: deque[Span] = attrs.field(factory=deque, init=False)
    _under_way: int = 0

    def __attrs_post_init__(self) -> None:
        self._last_byte = self.clock.monotonic()

    async def run(self) -> None:
        """Receive what is missing."""
        missing = self.writer.missing
        if not missing:
            return
        self._done = self.descriptor.size - sum(map(len, missing))
        self.advance(self._done)
        self._parts.extend(_split(missing, self.limits.part_size(self.descriptor.size)))
        workers = min(len(self._parts), self.limits.per_host)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work())
        except BaseExceptionGroup as exc:
            error = _first(exc)
            if not isinstance(error, _RangesRefusedError):
                raise error from exc
        else:
            return
        await self._receive_whole()

    async def _work(self) -> None:
        while self._parts:
            async with self.gate.stream():
                if not self._parts:
                    return
                part = self._next_part()
                self._under_way += 1
                try:
                    if not await self._receive_part(part):
                        return
                finally:
                    self._under_way -= 1

    def _next_part(self) -> Span:
        """What to ask for next: a part, or many that follow each other where nobody else would take them."""
        part = self._parts.popleft()
        while self.gate.is_fast and self._parts and self._parts[0].start == part.end:
            if self._parts[0].end - part.start > self.limits.longest_request:
                break
            part = Span(part.start, self._parts.popleft().end)
        return part

    async def _receive_part(self, part: Span) -> bool:
        """Receive one part; ``False`` where it was given back because the origin wants fewer connections."""
        position, fruitless = part.start, 0
        while True:
            before, opened = position, False
            try:
                async with self.open_blob(position, part.end) as reader:
                    opened = True
                    if reader.offset != position or reader.end not in {None, part.end}:
                        raise _RangesRefusedError
                    async with self.writer.part(position) as writer:
                        try:
                            await self._receive(reader, writer, end=part.end)
                        finally:
                            position = writer.position
                if position == part.end:
                    return True
                raise RegistryUnreachableError(
                    f"the blob {self.descriptor.digest} ended {part.end - position} bytes early"
                )
            except RegistryError as exc:
                if position == part.end:
                    return True  # all of it is here, whatever broke behind it; its digest tells whether it is right
                if not opened and self._under_way > 1:
                    # The others get on, so it is this one connection that is too many.
                    self._parts.appendleft(Span(position, part.end))
                    self.gate.shrink()
                    return False
                fruitless = 0 if _is_progress(before, position, part.end) else fruitless + 1
                self._give_up_or_go_on(exc, opened=opened, fruitless=fruitless)
            await self._back_off(fruitless)

    async def _receive_whole(self) -> None:
        """Receive everything in one stream, and keep what was not here; for origins that know no ranges."""
        fruitless = 0
        async with self.gate.stream():
            while True:
                before, opened = self.writer.offset, False
                self._done = before
                try:
                    async with self.open_blob(before, None) as reader:
                        opened = True
                        async with self.writer.part(before) as writer:
                            await self._receive(reader, writer, skip=before - reader.offset, end=self.descriptor.size)
                            position = writer.position
                    if position == self.descriptor.size:
                        return
                    raise RegistryUnreachableError(f"the blob {self.descriptor.digest} ended after {position} bytes")
                except _RangesRefusedError:
                    raise RegistryError(
                        f"blob {self.descriptor.digest} goes on after the {self.descriptor.size} bytes it is to have"
                    ) from None
                except RegistryError as exc:
                    progressed = _is_progress(before, self.writer.offset, self.descriptor.size)
                    fruitless = 0 if progressed else fruitless + 1
                    self._give_up_or_go_on(exc, opened=opened, fruitless=fruitless)
                await self._back_off(fruitless)

    def _give_up_or_go_on(self, error: RegistryError, *, opened: bool, fruitless: int) -> None:
        """Raise ``error`` unless another try is worth it. Opening was tried several times already by whoever opens."""
        silent = self.clock.monotonic() - self._last_byte >= self.limits.silence
        if not opened or silent or not isinstance(error, RegistryUnreachableError) or fruitless >= self.limits.attempts:
            raise error

    async def _receive(self, reader: BlobReader, writer: PartWriter, *, skip: int = 0, end: int) -> None:
        pace = _Pace(self.clock, self.limits)

        def came(count: int, *, new: int) -> None:
            self.received += count
            self.gate.received(count)
            self._last_byte = self.clock.monotonic()
            if new:
                self._done += new
                self.advance(self._done)
            pace.came(count)

        if reader.source is not None and not skip:
            source = reader.source

            def took(count: int) -> None:
                came(count, new=count)
                if pace.is_stalled:
                    source.abort()

            try:
                await writer.receive(source, end - writer.position, took)
            except RegistryUnreachableError as exc:
                raise self._stalled(pace) if pace.is_stalled else exc from exc
            return
        async for received in reader.chunks:
            chunk = received[skip:] if skip else received
            skip -= len(received) - len(chunk)
            room = end - writer.position
            if chunk:
                await writer.write(chunk[:room] if len(chunk) > room else chunk)
            came(len(received), new=min(len(chunk), room))
            if len(chunk) > room:
                raise _RangesRefusedError  # what comes is not what was asked for
            if pace.is_stalled:
                raise self._stalled(pace)

    def _stalled(self, pace: _Pace) -> RegistryUnreachableError:
        return RegistryUnreachableError(
            f"blob {self.descriptor.digest} stalled: only {pace.bytes} bytes came in {self.limits.slow_window:g} s"
        )

    async def _back_off(self, fruitless: int) -> None:
        if fruitless:
            wait = min(self.limits.longest_wait, self.limits.first_wait * 2.0 ** (fruitless - 1))
            await self.clock.sleep(wait * (0.5 + self.jitter() / 2))


def _split(spans: tuple[Span, ...], size: int) -> list[Span]:
    """Parts of at most ``size`` bytes; a short rest goes with the part before it."""
    parts = []
    for span in spans:
        start = span.start
        while span.end - start >= size + size // 2:
            parts.append(Span(start, start + size))
            start += size
        parts.append(Span(start, span.end))
    return parts


def _is_progress(before: int, after: int, end: int) -> bool:
    return after - before >= min(_NOTICEABLE, end - before)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What one of them met first is what the caller can act on; that ranges are refused explains the others."""
    errors: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            errors.append(error)
    return next((error for error in errors if isinstance(error, _RangesRefusedError)), errors[0])
