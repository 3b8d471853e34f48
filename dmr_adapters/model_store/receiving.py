"""Taking bytes from a connection to the disk in threads, past the event loop and the page cache.

One thread receives into a block of memory and hashes what came while it is still in the processor's cache, another
writes the block, so that each byte is touched three times and never copied. The page cache is left alone where that is
possible.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from dmr_adapters.model_store.direct_writing import ALIGNMENT, DirectWriter
from dmr_adapters.model_store.partial_file import PartialFile
from dmr_core.errors import DmrError
from dmr_core.ports.registry import ByteSource

__all__ = ["Receiver"]

_BLOCK: Final = 1024 * 1024
_BLOCKS: Final = 4
_TELL_AFTER: Final = 8 * _BLOCK
_TELL_EVERY: Final = 0.05


class Receiver:
    """Receives bytes into ``file`` from ``start`` on.

    ``feed`` hashes them as they come, which is possible where everything before was hashed; they are not read again
    then, and need no page cache. ``position`` is where the next byte goes, ``hashed`` how far they were fed; the two
    differ only where the disk refused.
    """

    def __init__(self, file: PartialFile, start: int, feed: Callable[[memoryview], None] | None) -> None:
        self.position = start
        self.hashed = start
        self._file = file
        self._feed = feed
        self._direct: DirectWriter | None = None
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._received: SimpleQueue[tuple[mmap.mmap, int] | None] = SimpleQueue()
        self._failure: BaseException | None = None

    async def receive(self, source: ByteSource, count: int, received: Callable[[int], None]) -> None:
        """Receive them; see :meth:`PartWriter.receive`. Cancelled, it ends once its threads have."""
        loop = asyncio.get_running_loop()
        tally = _Tally(lambda more: loop.call_soon_threadsafe(received, more))
        with ThreadPoolExecutor(1, thread_name_prefix="dmr-receive") as pool:
            work = loop.run_in_executor(pool, self._run, source, count, tally)
            cancelled: asyncio.CancelledError | None = None
            while not work.done():
                try:
                    await asyncio.wait([work])
                except asyncio.CancelledError as exc:
                    cancelled = exc
                    source.abort()
        if cancelled is not None:
            work.exception()  # looked at
            raise cancelled
        work.result()

    def _run(self, source: ByteSource, count: int, tally: _Tally) -> None:
        blocks = [mmap.mmap(-1, _BLOCK) for _ in range(_BLOCKS)]
        for block in blocks:
            self._free.put(block)
        writing = threading.Thread(target=self._write_all, name="dmr-write")
        try:
            if self._feed is not None:
                self._direct = DirectWriter(self._file.descriptor, self._file.path)
            self._file.before_gap(self.position)
            writing.start()
            self._receive_all(source, count, tally)
        finally:
            if writing.ident is not None:
                self._received.put(None)
                writing.join()
            if self._direct is not None:
                self._direct.close()
            tally.tell()
            for block in blocks:
                with suppress(BufferError):  # a traceback holds a view of it; it goes with that
                    block.close()
        if self._failure is not None:
            raise self._failure

    def _receive_all(self, source: ByteSource, count: int, tally: _Tally) -> None:
        position = self.position
        while count and self._failure is None:
            block = self._free.get()
            wanted = min(count, _BLOCK - position % ALIGNMENT)  # the next block is aligned
            filled, failure = 0, None
            with memoryview(block) as view:
                while filled < wanted and failure is None:
                    try:
                        got = source.read_into(view[filled:wanted])
                    except DmrError as exc:
                        failure = exc
                    else:
                        if self._feed is not None:
                            self._feed(view[filled : filled + got])
                            self.hashed += got
                        filled += got
                        tally.add(got)
            position += filled
            count -= filled
            self._received.put((block, filled))
            if failure is not None:
                raise failure

    def _write_all(self) -> None:
        while (item := self._received.get()) is not None:
            block, filled = item
            try:
                if self._failure is None and filled:
                    with memoryview(block) as view:
                        self._write(view[:filled])
            except BaseException as exc:  # raised where the thread is joined
                self._failure = exc
            self._free.put(block)

    def _write(self, view: memoryview) -> None:
        start, done = self.position, 0
        try:
            while done < len(view):
                done += self._put(view[done:], start + done)
        finally:
            self.position = start + done
            self._file.record(start, self.position)

    def _put(self, view: memoryview, position: int) -> int:
        if self._direct is not None:
            return self._direct.write(view, position)
        return os.pwrite(self._file.descriptor, view, position)


class _Tally:
    """Counts what came in, and tells now and then."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self._tell = tell
        self._count = 0
        self._told = 0.0

    def add(self, count: int) -> None:
        """Count bytes."""
        self._count += count
        if self._count >= _TELL_AFTER or time.monotonic() - self._told >= _TELL_EVERY:
            self.tell()

    def tell(self) -> None:
        """Tell what was not told."""
        count, self._count, self._told = self._count, 0, time.monotonic()
        if count:
            self._tell(count)
