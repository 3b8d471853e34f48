"""Writing one blob: in parts or not, resumed, verified, made durable, published."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.durability import disk_conditions, make_directories, publish
from dmr_adapters.model_store.hashing import FollowingHash
from dmr_adapters.model_store.journal import PartsJournal
from dmr_adapters.model_store.kernel import reserve
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import is_current, try_flock
from dmr_adapters.model_store.receiving import Receiver
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.spans import Span, SpanSet
from dmr_core.errors import DigestMismatchError, DmrError
from dmr_core.ports.model_store import BlobWriter, PartWriter
from dmr_core.ports.registry import ByteSource

__all__ = ["BLOB_MODE", "FilesystemBlobWriter", "is_complete"]

BLOB_MODE: Final = 0o444
_BLOCK: Final = 1024 * 1024
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_AT_ONCE: Final = 512  # buffers in one call, half of what Linux takes (IOV_MAX)


def is_complete(path: Path, size: int) -> bool:
    """Whether the blob at ``path`` is here with all its bytes; one cut short is to be fetched again."""
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


class FilesystemBlobWriter(BlobWriter):
    """Writes into ``.dmr/ingest/<hex>``, which is locked for as long as this is open.

    The disk gives the room for all of it on opening. Small chunks are gathered, so that a thread is asked for once
    per block and not once per chunk. What is there without a gap is hashed meanwhile, what an earlier attempt left too.
    """

    def __init__(self, layout: StoreLayout, descriptor: Descriptor) -> None:
        self._layout = layout
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._path = layout.partial(descriptor.digest)
        self._journal = PartsJournal(layout.journal(descriptor.digest), descriptor.size)
        self._file: int | None = None
        self._here = SpanSet()
        self._turn = threading.Lock()  # over what is here and its journal
        self._hash: FollowingHash | None = None
        self._tail: _FilesystemPartWriter | None = None
        self._counted: int | None = None  # where the blob is complete already: how far the caller pretends to be
        self._resumed = 0

    @property
    def offset(self) -> int:
        if self._counted is not None:
            return self._counted
        return self._prefix() if self._tail is None else self._tail.position

    @property
    def missing(self) -> tuple[Span, ...]:
        return self._here.missing(self._size) if self._counted is None else ()

    @property
    def resumed(self) -> int:
        return self._resumed

    async def open(self) -> None:
        """Take the partial, once nobody else writes it, or find the blob complete."""
        pause = _FIRST_PAUSE
        while not await finish_in_thread(self._try_open):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if self._counted is None:
            self._hash = FollowingHash(self._descriptor, self._prefix)
            self._hash.follow()

    @asynccontextmanager
    async def _part(self, start: int) -> AsyncIterator[PartWriter]:
        await self._end_tail()
        part = _FilesystemPartWriter(self, start)
        try:
            yield part
        finally:
            await part.flush()

    def part(self, start: int) -> AbstractAsyncContextManager[PartWriter]:
        return self._part(start)

    async def restart(self) -> None:
        if self._counted is not None:
            self._counted = 0
            return
        await self._discard()
        self._hash = FollowingHash(self._descriptor, self._prefix)

    async def write(self, chunk: bytes) -> None:
        if self._counted is None:
            if self._tail is None:
                self._tail = _FilesystemPartWriter(self, self._prefix())
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
        if self._here.missing(self._size):
            await self.refuse(f"{self._here.count} of {self._size} bytes")
        with disk_conditions(self._layout.root):
            actual = await self._following.hexdigest()
        if actual != self._digest.hex:
            await self.refuse(f"sha256:{actual}")
        await finish_in_thread(self._publish)

    async def close(self) -> None:
        """Keep what was written, unless it was published or thrown away."""
        if self._file is None:
            return
        try:
            if self._counted is None:
                # A disk that is full loses the last block at most: it will be asked for again.
                with suppress(DmrError):
                    await self._end_tail()
            if self._hash is not None:
                await self._hash.stop()
            if self._counted is None:
                await finish_in_thread(self._trim)
        finally:
            file, self._file = self._file, None
            await finish_in_thread(lambda: self._close(file))

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
        await finish_in_thread(lambda: self._store(start, chunks))
        self._following.follow()

    async def take(
        self, start: int, source: ByteSource, count: int, received: Callable[[int], None]
    ) -> tuple[int, BaseException | None]:
        """Take ``count`` bytes of ``source`` to ``start``; how far that went, and what ended it early."""
        in_order = self._following.claim(start)
        receiver = Receiver(self, self._descriptor, self._path, start, in_order=in_order)
        try:
            with disk_conditions(self._layout.root, self._size - self._here.count):
                await receiver.receive(source, count, received)
        except (DmrError, asyncio.CancelledError) as exc:
            return receiver.position, exc
        finally:
            if in_order:
                self._following.release()
            else:
                self._following.follow()
        return receiver.position, None

    def record(self, start: int, end: int) -> None:
        """See :class:`~dmr_adapters.model_store.receiving.Target`."""
        with self._turn:
            self._here.add(start, end)
            if self._journal.is_open or self._here.prefix != self._here.count:
                self._journal.write(self._here)

    def before_gap(self, start: int) -> None:
        """See :class:`~dmr_adapters.model_store.receiving.Target`."""
        with self._turn:
            if not self._journal.is_open and start > self._here.prefix:
                self._journal.write(self._here)  # before there is a gap, so that no gap is taken for bytes

    def feed(self, block: memoryview) -> None:
        """See :class:`~dmr_adapters.model_store.receiving.Target`."""
        self._following.feed(block)

    @property
    def size(self) -> int:
        """How many bytes the blob is to have."""
        return self._size

    @property
    def is_present(self) -> bool:
        """Whether the blob is here already, so that nothing needs to be written."""
        return self._counted is not None

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("the writer is not open")
        return self._file

    @property
    def _following(self) -> FollowingHash:
        if self._hash is None:
            raise ValueError("the writer is not open")
        return self._hash

    def _prefix(self) -> int:
        with self._turn:
            return self._here.prefix

    def _mismatch(self, actual: str) -> DigestMismatchError:
        return DigestMismatchError(str(self._digest), actual)

    async def _end_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.flush()

    async def _discard(self) -> None:
        self._tail = None
        if self._hash is not None:
            await self._hash.stop()
        await finish_in_thread(self._empty)

    # What follows runs in threads.

    def _try_open(self) -> bool:
        """Take the partial, or find the blob complete. False: somebody else is writing it."""
        blob = self._layout.blob(self._digest)
        with disk_conditions(self._layout.root, self._size):
            if is_complete(blob, self._size):
                self._found_complete()
                return True
            make_directories(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            # Kept at once, so that a caller cancelled meanwhile still closes it.
            self._file = os.open(self._path, flags, 0o644)
            if not (try_flock(self._file) and is_current(self._file, self._path)):
                os.close(self._file)
                self._file = None
                return False
            if is_complete(blob, self._size):  # whoever had the lock before has just finished it
                self._found_complete()
                self._path.unlink()
                self._journal.discard()
                return True
            self._adopt_reference_partial()
            self._take_up()
            # Said before the first byte rather than an hour later.
            for gap in self._here.missing(self._size):
                reserve(self._descriptor, gap.start, len(gap))
        self._resumed = self._here.count
        return True

    def _found_complete(self) -> None:
        self._counted = self._resumed = self._size

    def _adopt_reference_partial(self) -> None:
        """Take over what the reference runner has of this blob: a prefix as well, and further along than nothing."""
        theirs = self._layout.reference_partial(self._digest)
        if os.fstat(self._descriptor).st_size:
            return
        try:
            file = os.open(theirs, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        if not 0 < os.fstat(file).st_size <= self._size or not try_flock(file):
            os.close(file)
            return
        try:
            theirs.rename(self._path)
        except OSError:
            os.close(file)
            return
        self._journal.discard()
        os.close(self._descriptor)
        self._file = file

    def _take_up(self) -> None:
        """Find out what an earlier attempt left."""
        length = os.fstat(self._descriptor).st_size
        recorded = self._journal.read()
        if recorded is None and length <= self._size:
            self._here.add(0, length)
            return
        for span in recorded or ():
            self._here.add(span.start, min(span.end, length))
        if not self._here.count:
            self._empty()

    def _store(self, start: int, chunks: list[bytes]) -> None:
        position, left = start, [memoryview(chunk) for chunk in chunks]
        with disk_conditions(self._layout.root, self._size - self._here.count):
            self.before_gap(start)
            try:
                while left:
                    position += _written(os.pwritev(self._descriptor, left[:_AT_ONCE], position), left)
            finally:
                self.record(start, position)

    def _empty(self) -> None:
        with disk_conditions(self._layout.root, self._size):
            with self._turn:
                self._here.clear()
            os.ftruncate(self._descriptor, 0)
            self._journal.discard()
            reserve(self._descriptor, 0, self._size)

    def _trim(self) -> None:
        """Give back the room nothing was written to; delete a partial that holds nothing."""
        with suppress(OSError):
            if self._here.count:
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size)
            else:
                self._path.unlink()
                self._journal.discard()

    def _publish(self) -> None:
        with disk_conditions(self._layout.root):
            os.fchmod(self._descriptor, BLOB_MODE)
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
            publish(self._path, self._layout.blob(self._digest))
            self._journal.discard()
        self._counted = self._size

    def _close(self, file: int) -> None:
        self._journal.close()
        os.close(file)


class _FilesystemPartWriter(PartWriter):
    """Gathers what is written to one stretch of a blob into blocks."""

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
        if self._blob.is_present:
            self._flushed += length
            return
        await self._blob.store(self._flushed, chunks)
        self._flushed += length


def _written(count: int, left: list[memoryview]) -> int:
    """Take the first ``count`` bytes off ``left``."""
    taken = count
    while taken:
        if len(left[0]) <= taken:
            taken -= len(left.pop(0))
        else:
            left[0] = left[0][taken:]
            taken = 0
    return count
