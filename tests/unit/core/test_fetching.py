"""Bringing a blob in: parts, resuming, trying again, giving up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import attrs
import pytest

from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError, RegistryError, RegistryUnreachableError, StorageFullError
from dmr_core.ports.registry import BlobReader
from dmr_core.services.fetching import FetchingService, FetchLimits
from dmr_core.testing.contracts.model_store import layer_of
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.model_store import InMemoryModelStore

_MIB: Final = 1024 * 1024
_BLOB: Final = b"".join(number.to_bytes(4, "big") for number in range(5 * _MIB // 4))
_LAYER: Final = layer_of(_BLOB)
_LIMITS: Final = FetchLimits(smallest_part=_MIB, largest_part=_MIB, at_first=4, per_host=4, fast=1e12)


@attrs.define
class _Origin:
    """Where the blob comes from. ``cut`` says after how many bytes the next connections break; ``None``: they do not."""

    content: bytes = _BLOB
    ranges: bool = True
    piece: int = 64 * 1024
    cuts: list[int | None] = attrs.field(factory=list)
    refuse: set[int] = attrs.field(factory=set)
    asked: list[tuple[int, int | None]] = attrs.field(factory=list)
    sent: int = 0
    before_piece: Callable[[], object] = attrs.field(default=lambda: None)

    def open(self, offset: int, end: int | None) -> AbstractAsyncContextManager[BlobReader]:
        return self._open(offset, end)

    @asynccontextmanager
    async def _open(self, offset: int, end: int | None) -> AsyncIterator[BlobReader]:
        self.asked.append((offset, end))
        if len(self.asked) in self.refuse:
            raise RegistryError("too many connections")
        start, stop = (offset, end or len(self.content)) if self.ranges else (0, len(self.content))
        yield BlobReader(start, self._chunks(start, stop, self.cuts.pop(0) if self.cuts else None), None, stop)

    async def _chunks(self, start: int, stop: int, cut: int | None) -> AsyncIterator[bytes]:
        last = stop if cut is None else min(stop, start + cut)
        for position in range(start, last, self.piece):
            self.before_piece()
            await asyncio.sleep(0)
            chunk = self.content[position : min(position + self.piece, last)]
            self.sent += len(chunk)
            yield chunk
        if last < stop:
            raise RegistryUnreachableError("the connection broke")


class _Fixture:
    def __init__(self, limits: FetchLimits = _LIMITS) -> None:
        self.clock = FakeClock()
        self.store = InMemoryModelStore()
        self.fetching = FetchingService(store=self.store, clock=self.clock, limits=limits, jitter=lambda: 1.0)
        self.progress: list[int] = []

    async def fetch(self, origin: _Origin, layer: Descriptor = _LAYER) -> int:
        return await self.fetching.fetch(layer, origin.open, host="origin", advance=self.progress.append)

    async def fetch_waiting(self, origin: _Origin) -> int:
        """Fetch, and let the time pass that is waited in between."""
        work = asyncio.create_task(self.fetch(origin))
        while not work.done():
            await self.clock.advance(1)
        return await work

    @property
    def blob(self) -> bytes | None:
        return self.store.blobs.get(_LAYER.digest)


async def test_a_blob_comes_in_parts_that_are_asked_for_side_by_side() -> None:
    here, origin = _Fixture(), _Origin()
    assert await here.fetch(origin) == len(_BLOB)
    assert here.blob == _BLOB
    assert sorted(origin.asked) == [(start, start + _MIB) for start in range(0, len(_BLOB), _MIB)]
    assert here.progress[0] == 0
    assert here.progress[-1] == len(_BLOB)


async def test_a_blob_that_is_here_is_not_asked_for() -> None:
    here, origin = _Fixture(), _Origin()
    await here.fetch(_Origin())
    assert await here.fetch(origin) == 0
    assert origin.asked == []


async def test_a_small_blob_is_asked_for_once() -> None:
    here, small = _Fixture(), b"small"
    origin = _Origin(content=small)
    await here.fetch(origin, layer_of(small))
    assert origin.asked == [(0, len(small))]


async def test_an_empty_blob_needs_no_connection() -> None:
    here, origin = _Fixture(), _Origin(content=b"")
    await here.fetch(origin, layer_of(b""))
    assert origin.asked == []
    assert here.store.blobs[Digest.of(b"")] == b""


async def test_a_broken_connection_goes_on_where_it_broke() -> None:
    here, origin = _Fixture(), _Origin(cuts=[300_000, None, 700_000])
    await here.fetch_waiting(origin)
    assert here.blob == _BLOB
    assert origin.sent == len(_BLOB)


async def test_what_was_received_before_a_failure_is_not_asked_for_again() -> None:
    here, origin = _Fixture(), _Origin()
    unlucky = _Origin(cuts=[65536] * 100)
    with pytest.raises(RegistryUnreachableError):
        await here.fetch_waiting(unlucky)
    received = len(_BLOB) - sum(len(span) for span in here.store.here[_LAYER.digest].missing(len(_BLOB)))
    assert received > 0
    assert await here.fetch(origin) == len(_BLOB) - received
    assert here.blob == _BLOB


async def test_connections_that_bring_nothing_are_given_up() -> None:
    here, origin = _Fixture(attrs.evolve(_LIMITS, at_first=1, per_host=1)), _Origin(cuts=[0] * 100)
    with pytest.raises(RegistryUnreachableError, match="broke"):
        await here.fetch_waiting(origin)
    assert len(origin.asked) == _LIMITS.attempts


async def test_silence_ends_a_fetch_at_the_next_failure() -> None:
    here = _Fixture(attrs.evolve(_LIMITS, at_first=1, per_host=1))
    origin = _Origin(cuts=[0] * 100)

    async def stall() -> None:
        await here.clock.sleep(30)

    @asynccontextmanager
    async def stalling(offset: int, end: int | None) -> AsyncIterator[BlobReader]:
        async with origin.open(offset, end) as reader:
            await stall()
            yield reader

    work = asyncio.create_task(here.fetching.fetch(_LAYER, stalling, host="origin", advance=here.progress.append))
    while not work.done():
        await here.clock.advance(1)
    with pytest.raises(RegistryUnreachableError):
        await work
    assert len(origin.asked) == 2


async def test_a_drip_counts_as_a_stall() -> None:
    here, origin = _Fixture(attrs.evolve(_LIMITS, at_first=1, per_host=1, attempts=1)), _Origin(piece=10)

    def ten_seconds() -> None:
        here.clock._monotonic += 10  # nobody sleeps, so nobody is to be woken

    origin.before_piece = ten_seconds
    with pytest.raises(RegistryUnreachableError, match=r"stalled: only [0-9]+ bytes came in 30 s"):
        await here.fetch_waiting(origin)


async def test_an_origin_without_ranges_is_read_in_one_stream() -> None:
    here, origin = _Fixture(), _Origin(ranges=False)
    await here.fetch(origin)
    assert here.blob == _BLOB
    assert origin.asked[-1] == (0, None)
    assert origin.sent == len(_BLOB)


async def test_an_origin_that_sends_more_than_it_was_asked_for_is_read_in_one_stream() -> None:
    here, origin = _Fixture(), _Origin()

    @asynccontextmanager
    async def open_blob(offset: int, end: int | None) -> AsyncIterator[BlobReader]:
        async with origin.open(offset, None) as reader:  # says nothing about the end, and goes on to the last byte
            yield attrs.evolve(reader, end=None)

    await here.fetching.fetch(_LAYER, open_blob, host="origin", advance=here.progress.append)
    assert here.blob == _BLOB


async def test_a_blob_that_goes_on_after_its_end_is_an_error() -> None:
    here, origin = _Fixture(), _Origin(content=_BLOB + b"more", ranges=False)
    with pytest.raises(RegistryError, match="goes on after"):
        await here.fetch(origin)


async def test_an_origin_without_ranges_adds_to_what_was_here() -> None:
    here, origin = _Fixture(), _Origin(ranges=False)
    async with here.store.write_blob(_LAYER) as writer:
        await writer.write(_BLOB[: 2 * _MIB + 17])
    await here.fetch(origin)
    assert here.blob == _BLOB


async def test_one_connection_too_many_is_done_without() -> None:
    here, origin = _Fixture(), _Origin(refuse={3})
    await here.fetch(origin)
    assert here.blob == _BLOB


async def test_a_refusal_of_the_only_connection_is_told() -> None:
    here, origin = _Fixture(attrs.evolve(_LIMITS, at_first=1, per_host=1)), _Origin(refuse={1})
    with pytest.raises(RegistryError, match="too many"):
        await here.fetch(origin)


async def test_wrong_bytes_are_told_and_nothing_of_them_stays() -> None:
    here, origin = _Fixture(), _Origin(content=bytes(len(_BLOB)))
    with pytest.raises(DigestMismatchError):
        await here.fetch(origin)
    assert here.blob is None
    assert len(origin.asked) == 5


async def test_wrong_bytes_of_an_earlier_attempt_are_fetched_again() -> None:
    here, origin = _Fixture(), _Origin()
    async with here.store.write_blob(_LAYER) as writer, writer.part(_MIB) as part:
        await part.write(b"not what it should be")
    assert await here.fetch(origin) == 2 * len(_BLOB) - 21
    assert here.blob == _BLOB


async def test_a_full_disk_ends_it_and_keeps_what_was_received() -> None:
    here, origin = _Fixture(), _Origin()
    here.store.capacity = 2 * _MIB
    with pytest.raises(StorageFullError):
        await here.fetch(origin)
    here.store.capacity = None
    await here.fetch(origin)
    assert here.blob == _BLOB


async def test_a_cancelled_fetch_keeps_what_was_received_and_leaves_nothing_open() -> None:
    here = _Fixture()
    reached = asyncio.Event()
    origin = _Origin()

    def tell() -> None:
        if origin.sent > 2 * _MIB:
            reached.set()

    origin.before_piece = tell
    work = asyncio.create_task(here.fetch(origin))
    await reached.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    again = _Origin()
    received = await here.fetch(again)
    assert received < len(_BLOB) - _MIB
    assert here.blob == _BLOB


async def test_the_same_blob_asked_for_twice_is_received_once() -> None:
    here, origin = _Fixture(), _Origin()
    received = await asyncio.gather(here.fetch(origin), here.fetch(origin))
    assert sorted(received) == [0, len(_BLOB)]
    assert origin.sent == len(_BLOB)


async def test_parts_that_follow_each_other_are_one_request_once_a_connection_is_fast() -> None:
    limits = attrs.evolve(_LIMITS, at_first=1, fast=1.0)
    here, origin = _Fixture(limits), _Origin()

    def a_little_later() -> None:
        here.clock._monotonic += 0.01

    origin.before_piece = a_little_later
    await here.fetch(origin)
    assert here.blob == _BLOB
    assert origin.asked == [(0, _MIB), (_MIB, len(_BLOB))]


async def test_no_request_is_longer_than_the_limit() -> None:
    limits = attrs.evolve(_LIMITS, at_first=1, fast=1.0, longest_request=2 * _MIB)
    here, origin = _Fixture(limits), _Origin()

    def a_little_later() -> None:
        here.clock._monotonic += 0.01

    origin.before_piece = a_little_later
    await here.fetch(origin)
    assert origin.asked == [(0, _MIB), (_MIB, 3 * _MIB), (3 * _MIB, len(_BLOB))]


async def test_a_failure_behind_the_last_byte_of_a_part_is_no_failure() -> None:
    here, origin = _Fixture(), _Origin()

    @asynccontextmanager
    async def open_blob(offset: int, end: int | None) -> AsyncIterator[BlobReader]:
        async with origin.open(offset, end) as reader:
            yield attrs.evolve(reader, chunks=_failing_after(reader.chunks))

    await here.fetching.fetch(_LAYER, open_blob, host="origin", advance=here.progress.append)
    assert here.blob == _BLOB
    assert len(origin.asked) == 5


async def _failing_after(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
    raise RegistryUnreachableError("the connection broke after the last byte")
