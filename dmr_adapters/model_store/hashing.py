"""Hashing a blob while it is being written."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Final

from dmr_adapters.model_store.kernel import begin_writing

__all__ = ["FollowingHash"]

_BLOCK: Final = 1024 * 1024
_BEHIND: Final = 8 * _BLOCK


class FollowingHash:
    """Hashes a file in order, as far as it is there without a gap, in a thread behind those that write it.

    It reads from the page cache what was written a moment ago, which costs a tenth of the hash itself and takes parts
    in any order. What was hashed is also sent on its way to the disk, so that the sync at the end is short.
    ``prefix`` says how far the file is there; it is called in the thread.
    """

    def __init__(self, descriptor: int, prefix: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._prefix = prefix
        self._hash = hashlib.sha256()
        self._done = 0
        self._sent = 0
        self._stopped = False
        self._claimed = False
        self._work: asyncio.Future[None] | None = None
        self._buffer = bytearray(_BLOCK)

    @property
    def behind(self) -> int:
        """How many bytes there are to hash."""
        return max(0, self._prefix() - self._done)

    def claim(self, position: int) -> bool:
        """Take over hashing from ``position`` on with :meth:`feed`, if everything before was hashed.

        Whoever was granted that gives it back with :meth:`release`.
        """
        busy = self._claimed or (self._work is not None and not self._work.done())
        if busy or self._done != position:
            return False
        self._claimed = True
        return True

    def feed(self, block: memoryview) -> None:
        """Hash the next bytes. In a thread, by whoever claimed it."""
        self._hash.update(block)
        self._done = self._sent = self._done + len(block)

    def release(self) -> None:
        """Go on by reading what is written."""
        self._claimed = False
        self.follow()

    def follow(self) -> None:
        """Go on hashing, unless that is being done already."""
        if self._claimed:
            return
        if self._work is None or self._work.done():
            if self._work is not None and self._work.exception() is not None:
                return
            self._work = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(None, self._read_on))

    async def catch_up(self) -> None:
        """Return once everything that is there was hashed.

        Raises:
            OSError: the file could not be read.
        """
        while True:
            work = self._work
            if work is not None:
                await asyncio.wait([work])
                work.result()
            if not self.behind:
                return
            self.follow()

    async def hexdigest(self) -> str:
        """The hash of everything that is there.

        Raises:
            OSError: the file could not be read.
        """
        await self.catch_up()
        return self._hash.hexdigest()

    async def stop(self) -> None:
        """Stop at the next block, and return when that is so."""
        self._stopped = True
        if self._work is not None:
            await _settled(self._work)
            if not self._work.cancelled():
                self._work.exception()  # looked at: whoever needed the hash was told, the others need not care

    def _read_on(self) -> None:
        view = memoryview(self._buffer)
        while not self._stopped:
            end = self._prefix()
            if self._done >= end:
                return
            count = os.preadv(self._descriptor, [view[: min(_BLOCK, end - self._done)]], self._done)
            if not count:
                raise OSError(5, "the partial blob became shorter")
            self._hash.update(view[:count])
            self._done += count
            if self._done - self._sent >= _BEHIND:
                begin_writing(self._descriptor, self._sent, self._done - self._sent)
                self._sent = self._done


async def _settled(work: asyncio.Future[None]) -> None:
    """Wait for ``work``, cancelled or not: its thread uses a file that is closed afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
