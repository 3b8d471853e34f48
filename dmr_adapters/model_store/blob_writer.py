"""Writing one blob: in parts or not, resumed, hashed on the way, verified, published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from dmr_adapters.model_store.durability import disk_conditions
from dmr_adapters.model_store.hashing import FollowingHash
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.partial_file import PartialFile
from dmr_adapters.model_store.receiving import Receiver
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.spans import Span
from dmr_core.errors import DigestMismatchError, DmrError
from dmr_core.ports.model_store import BlobWriter, PartWriter
from dmr_core.ports.registry import ByteSource

__all__ = ["FilesystemBlobWriter"]

_BLOCK: Final = 1024 * 1024
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_WORTH_WAITING: Final = 128 * _BLOCK  # hashed in a tenth of a second; what comes then is hashed as it comes


class FilesystemBlobWriter(BlobWriter):
    """Writes a partial file. What is there without a gap is hashed meanwhile, what an earlier attempt left too."""

    def __init__(self, layout: StoreLayout, descriptor: Descriptor) -> None:
        self._root = layout.root
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._file = PartialFile(layout, descriptor.digest, descriptor.size)
        self._hash: FollowingHash | None = None
        self._tail: _FilesystemPartWriter | None = None
        self._counted: int | None = None  # where the blob is complete already: how far the caller pretends to be
        self._resumed = 0

    @property
    def offset(self) -> int:
        if self._counted is not None:
            return self._counted
        return self._file.prefix() if self._tail is None else self._tail.position

    @property
    def missing(self) -> tuple[Span, ...]:
        return self._file.missing() if self._counted is None else ()

    @property
    def resumed(self) -> int:
        return self._resumed

    async def open(self) -> None:
        """Take the partial, once nobody else writes it, or find the blob complete."""
        pause = _FIRST_PAUSE
        while not await finish_in_thread(self._file.take):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if self._file.is_published:
            self._counted = self._resumed = self._size
            return
        self._resumed = self._file.count
        self._hash = FollowingHash(self._file.descriptor, self._file.prefix)
        self._hash.follow()

    def part(self, start: int) -> AbstractAsyncContextManager[PartWriter]:
        return self._part(start)

    async def restart(self) -> None:
        if self._counted is not None:
            self._counted = 0
            return
        self._tail = None
        await self._following.stop()
        await finish_in_thread(self._file.empty)
        self._hash = FollowingHash(self._file.descriptor, self._file.prefix)

    async def write(self, chunk: bytes) -> None:
        if self._counted is None:
            if self._tail is None:
                self._tail = _FilesystemPartWriter(self, self._file.prefix())
            await self._tail.write(chunk)
            return
        # Nothing to do but count: whoever sends from the start cannot know that the blob is here.
        if self._counted + len(chunk) > self._size:
            raise self._mismatch(f"more than the {self._size} bytes promised")
        self._counted += len(chunk)

    async def commit(self) -> None:
        if self._counted is not None:
            return
        await self._end_tail()
        if self._file.missing():
            await self.refuse(f"{self._file.count} of {self._size} bytes")
        with disk_conditions(self._root):
            actual = await self._following.hexdigest()
        if actual != self._digest.hex:
            await self.refuse(f"sha256:{actual}")
        await finish_in_thread(self._file.publish)
        self._counted = self._size

    async def close(self) -> None:
        """Keep what was written, unless it was published or thrown away."""
        if not self._file.is_open:
            return
        try:
            if self._counted is None:
                # A disk that is full loses the last block at most: it will be asked for again.
                with suppress(DmrError):
                    await self._end_tail()
            if self._hash is not None:
                await self._hash.stop()
        finally:
            await finish_in_thread(self._file.close)

    async def refuse(self, actual: str) -> None:
        """Throw away what is here and say why.

        Raises:
            DigestMismatchError: always.
        """
        if self._counted is None:
            await self.restart()
        raise self._mismatch(actual)

    async def store(self, start: int, chunks: list[bytes]) -> None:
        """Put ``chunks`` on the disk from ``start`` on, and hash on as far as that goes.

        Raises:
            StorageFullError, StoreUnwritableError: what was written until then is here all the same.
        """
        await finish_in_thread(lambda: self._file.write(start, chunks))
        self._following.follow()

    async def take(
        self, start: int, source: ByteSource, count: int, received: Callable[[int], None]
    ) -> tuple[int, BaseException | None]:
        """Take ``count`` bytes of ``source`` to ``start``; how far that went, and what ended it early."""
        following = self._following
        if start == self._file.prefix() and following.behind <= _WORTH_WAITING:
            with disk_conditions(self._root):
                await following.catch_up()
        feed = following.feed if following.claim(start) else None
        receiver = Receiver(self._file, start, feed)
        try:
            with disk_conditions(self._root, self._size - self._file.count):
                await receiver.receive(source, count, received)
        except (DmrError, asyncio.CancelledError) as exc:
            return receiver.position, exc
        finally:
            if feed is None:
                following.follow()
            elif receiver.hashed == receiver.position:
                following.release()
            else:  # the disk refused what was hashed already
                self._hash = FollowingHash(self._file.descriptor, self._file.prefix)
        return receiver.position, None

    @property
    def size(self) -> int:
        """How many bytes the blob is to have."""
        return self._size

    @property
    def is_present(self) -> bool:
        """Whether the blob is here already, so that nothing needs to be written."""
        return self._counted is not None

    @property
    def _following(self) -> FollowingHash:
        if self._hash is None:
            raise ValueError("the writer is not open")
        return self._hash

    @asynccontextmanager
    async def _part(self, start: int) -> AsyncIterator[PartWriter]:
        await self._end_tail()
        part = _FilesystemPartWriter(self, start)
        try:
            yield part
        finally:
            await part.flush()

    def _mismatch(self, actual: str) -> DigestMismatchError:
        return DigestMismatchError(str(self._digest), actual)

    async def _end_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.flush()


class _FilesystemPartWriter(PartWriter):
    """Gathers what is written to one stretch of a blob into blocks, so that a thread is asked for once per block."""

    def __init__(self, blob: FilesystemBlobWriter, start: int) -> None:
        self._blob = blob
        self._flushed = start
        self._gathered: list[bytes] = []
        self._length = 0

    @property
    def position(self) -> int:
        return self._flushed + self._length

    async def write(self, chunk: bytes) -> None:
        if self.position + len(chunk) > self._blob.size:
            self._gathered.clear()
            self._length = 0
            await self._blob.refuse(f"more than the {self._blob.size} bytes promised")
        if not chunk:
            return
        if self._length + len(chunk) > _BLOCK:
            await self.flush()  # no block is larger: one is what a process that dies may have to fetch again
        self._gathered.append(chunk)
        self._length += len(chunk)
        if self._length >= _BLOCK:
            await self.flush()

    async def receive(self, source: ByteSource, count: int, received: Callable[[int], None]) -> None:
        await self.flush()
        if self.position + count > self._blob.size:
            await self._blob.refuse(f"more than the {self._blob.size} bytes promised")
        self._flushed, failure = await self._blob.take(self._flushed, source, count, received)
        if failure is not None:
            raise failure

    async def flush(self) -> None:
        """Write what was gathered."""
        if not self._gathered:
            return
        chunks, length = self._gathered, self._length
        self._gathered, self._length = [], 0
        if not self._blob.is_present:
            await self._blob.store(self._flushed, chunks)
        self._flushed += length
