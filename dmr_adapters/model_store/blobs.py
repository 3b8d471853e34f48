"""Writing blobs: resume, verify, make durable, publish."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.durability import disk_conditions, free_space, make_directories, publish, storage_full
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import DigestLocks, is_current, try_flock
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.spans import Span
from dmr_core.errors import DigestMismatchError, DmrError, NotFoundError
from dmr_core.ports.model_store import BlobWriter, PartWriter

__all__ = ["BLOB_MODE", "BlobIngest", "is_complete", "read_blob"]

BLOB_MODE: Final = 0o444
_BLOCK: Final = 1024 * 1024
_HASHED_AT_ONCE: Final = 64 * _BLOCK
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


def is_complete(path: Path, size: int) -> bool:
    """Whether the blob at ``path`` is here with all its bytes; one cut short is to be fetched again."""
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


async def read_blob(path: Path, digest: Digest, offset: int) -> AsyncIterator[bytes]:
    """The bytes of a blob from ``offset`` on, in blocks.

    Raises:
        NotFoundError: there is no such blob.
    """
    with ExitStack() as stack:
        try:
            # Entered in the thread, so that a caller cancelled meanwhile still closes it.
            file = await finish_in_thread(lambda: stack.enter_context(path.open("rb", buffering=0)))
        except FileNotFoundError as exc:
            raise NotFoundError(f"blob {str(digest)!r} not found in the model store") from exc
        await finish_in_thread(lambda: file.seek(offset))
        while block := await finish_in_thread(lambda: file.read(_BLOCK)):
            yield block


class BlobIngest:
    """Hands out writers, one at a time for each digest."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._locks = DigestLocks()

    @asynccontextmanager
    async def writer(self, descriptor: Descriptor) -> AsyncIterator[BlobWriter]:
        """Begin or resume a blob; waits while another task or process writes it."""
        async with self._locks.of(descriptor.digest):
            writer = _FilesystemBlobWriter(self._layout, descriptor)
            try:
                await writer.open()
                yield writer
            finally:
                await writer.close()


class _FilesystemBlobWriter(BlobWriter):
    """Writes into ``.dmr/ingest/<hex>``, which is locked for as long as this is open.

    Small chunks are gathered, so that a thread is asked for once per block and not once per chunk.
    The hash goes along with the bytes; what an earlier attempt left is hashed on opening.
    """

    def __init__(self, layout: StoreLayout, descriptor: Descriptor) -> None:
        self._layout = layout
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._path = layout.partial(descriptor.digest)
        self._file: int | None = None
        self._hash = hashlib.sha256()
        self._written = 0
        self._gathered = bytearray()
        self._present = False
        self._opened_at = 0
        self._free: int | None = None

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("the writer is not open")
        return self._file

    @property
    def offset(self) -> int:
        return self._written + len(self._gathered)

    async def open(self) -> None:
        pause = _FIRST_PAUSE
        while not await finish_in_thread(self._try_open):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if self._present:
            self._written = self._size
            return
        # In steps, so that nobody who gives up has to wait for the hash of a large prefix.
        while await finish_in_thread(self._hash_some):
            pass
        self._opened_at = self._written

    @property
    def resumed(self) -> int:
        return self._opened_at

    @property
    def missing(self) -> tuple[Span, ...]:
        return () if self.offset >= self._size else (Span(self.offset, self._size),)

    def part(self, start: int) -> AbstractAsyncContextManager[PartWriter]:
        raise NotImplementedError(start)

    async def restart(self) -> None:
        self._gathered.clear()
        self._written = 0
        if not self._present:
            self._hash = hashlib.sha256()
            await finish_in_thread(lambda: self._truncate(0))

    async def write(self, chunk: bytes) -> None:
        if self.offset + len(chunk) > self._size:
            await self._refuse(f"more than the {self._size} bytes promised")
        if self._present:
            # Nothing to do but count: whoever sends from the start cannot know that the blob is here.
            self._written += len(chunk)
            return
        if self._free is not None and self._free < self._size - self._opened_at:
            # Said before the first byte rather than an hour later.
            raise storage_full(self._layout.root, self._size - self._opened_at)
        self._gathered += chunk
        if len(self._gathered) >= _BLOCK:
            await self._flush()

    async def commit(self) -> None:
        if self._present:
            return
        await self._flush()
        if self._written != self._size:
            await self._refuse(f"{self._written} of {self._size} bytes")
        actual = self._hash.hexdigest()
        if actual != self._digest.hex:
            await self._refuse(f"sha256:{actual}")
        await finish_in_thread(self._publish)

    async def close(self) -> None:
        """Keep what was written, unless it was published or thrown away."""
        if self._file is None:
            return
        try:
            if not self._present:
                # A disk that is full loses the last block at most: it will be asked for again.
                with suppress(DmrError):
                    await self._flush()
                await finish_in_thread(self._unlink_empty)
        finally:
            file, self._file = self._file, None
            await finish_in_thread(lambda: os.close(file))

    async def _refuse(self, actual: str) -> None:
        if not self._present:
            self._gathered.clear()
            self._written = 0
            self._hash = hashlib.sha256()
            await finish_in_thread(lambda: self._truncate(0))
        raise DigestMismatchError(str(self._digest), actual)

    async def _flush(self) -> None:
        if self._gathered:
            await finish_in_thread(self._write_gathered)

    # What follows runs in threads, one step at a time.

    def _try_open(self) -> bool:
        """Take the partial, or find the blob complete. False: somebody else is writing it."""
        blob = self._layout.blob(self._digest)
        with disk_conditions(self._layout.root, self._size):
            if is_complete(blob, self._size):
                self._present = True
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
                self._present = True
                self._path.unlink()
                return True
            self._adopt_reference_partial()
            if os.fstat(self._file).st_size > self._size:
                os.ftruncate(self._file, 0)
        self._free = free_space(self._layout.root)
        return True

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
        os.close(self._descriptor)
        self._file = file

    def _hash_some(self) -> bool:
        """Hash the next part of what is here already. False: that was the last."""
        end = self._written + _HASHED_AT_ONCE
        with disk_conditions(self._layout.root):
            while self._written < end:
                block = os.pread(self._descriptor, _BLOCK, self._written)
                if not block:
                    return False
                self._hash.update(block)
                self._written += len(block)
        return True

    def _write_gathered(self) -> None:
        done = 0
        try:
            with disk_conditions(self._layout.root, self._size - self._written), memoryview(self._gathered) as view:
                while done < len(view):
                    count = os.pwrite(self._descriptor, view[done:], self._written)
                    self._hash.update(view[done : done + count])
                    done += count
                    self._written += count
        finally:
            # Where the disk refused halfway, the rest stays gathered and the offset stays right.
            del self._gathered[:done]

    def _truncate(self, size: int) -> None:
        with disk_conditions(self._layout.root):
            os.ftruncate(self._descriptor, size)

    def _unlink_empty(self) -> None:
        with suppress(OSError):
            if not os.fstat(self._descriptor).st_size:
                self._path.unlink()

    def _publish(self) -> None:
        with disk_conditions(self._layout.root):
            os.fchmod(self._descriptor, BLOB_MODE)
            os.fsync(self._descriptor)
            publish(self._path, self._layout.blob(self._digest))
        self._present = True
