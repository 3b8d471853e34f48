"""Copying a file within the machine, and hashing what is copied on the way."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.direct_writing import DirectWriter
from dmr_adapters.model_store.kernel import begin_writing, reserve
from dmr_core.domain.digest import Digest

__all__ = ["FileCopy", "UnreadableSourceError"]

_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)
_BLOCK: Final = 4 * 1024 * 1024
_BLOCKS: Final = 4  # one that is read, one that is hashed, one that is written, and one between them
_STEP: Final = 4 * _BLOCK


class UnreadableSourceError(Exception):
    """The file to be copied cannot be read; says why."""


class FileCopy:
    """Copies ``size`` bytes of ``source`` to ``target``, both open; ``report`` is told the bytes hashed so far.

    The copy shares the blocks of the source where the file system can. Where it cannot, each block is read once, into
    memory that is nobody else's, and hashed and written from there, past the page cache where that can be: the digest
    is true of the copy whatever becomes of the source meanwhile. ``path`` is the target's.
    """

    def __init__(
        self,
        source: int,
        target: int,
        path: Path,
        size: int,
        report: Callable[[int], None],
        abandoned: threading.Event,
    ) -> None:
        self._source = source
        self._target = target
        self._path = path
        self._size = size
        self._report = report
        self._abandoned = abandoned
        self._hash = hashlib.sha256()
        self._hashed = self._said = 0

    def run(self) -> Digest:
        """Copy and hash; the digest of the copy. In a thread, and takes two more.

        Raises:
            OSError: the disk is full, or cannot be written.
            UnreadableSourceError: the source cannot be read.
        """
        blocks = _page_aligned_blocks()
        if self._clone():
            self._read_clone(blocks[0])
        else:
            reserve(self._target, 0, self._size)
            writer = DirectWriter(self._target, self._path)
            try:
                self._copy(writer, blocks)
            finally:
                writer.close()
        return Digest(self._hash.hexdigest())

    def _clone(self) -> bool:
        try:
            fcntl.ioctl(self._target, _FICLONE, self._source)
        except OSError:
            return False
        return os.fstat(self._target).st_size == self._size

    def _read_clone(self, block: memoryview) -> None:
        done = 0
        while not self._abandoned.is_set() and (read := self._fill(self._target, block, done)):
            self._digest(read)
            done += len(read)

    def _copy(self, writer: DirectWriter, blocks: list[memoryview]) -> None:
        work: list[tuple[Future[None], ...]] = [()] * len(blocks)
        with ThreadPoolExecutor(1, "dmr-import-hash") as hashing, ThreadPoolExecutor(1, "dmr-import-write") as writing:
            done = number = 0
            while not self._abandoned.is_set():
                for part in work[number]:
                    part.result()
                read = self._read_source(blocks[number], done)
                if not read:
                    break  # all of it; or the source became shorter, which its status will tell
                write = writing.submit(self._write, writer, read, done)
                work[number] = (write, hashing.submit(self._digest, read))
                done += len(read)
                number = (number + 1) % len(blocks)
            for parts in work:
                for part in parts:
                    part.result()

    def _read_source(self, block: memoryview, start: int) -> memoryview:
        try:
            return self._fill(self._source, block, start)
        except OSError as exc:  # no trouble of the store, which is what others would take it for
            raise UnreadableSourceError(exc.strerror or str(exc)) from exc

    def _fill(self, descriptor: int, block: memoryview, start: int) -> memoryview:
        """As much of the block as the file has from ``start`` on: a direct write needs all of it."""
        wanted, read = min(len(block), self._size - start), 0
        while read < wanted and (count := os.preadv(descriptor, [block[read:wanted]], start + read)):
            read += count
        return block[:read]

    def _digest(self, block: memoryview) -> None:
        self._hash.update(block)
        self._hashed += len(block)
        if self._hashed - self._said >= _STEP:
            self._said = self._hashed
            self._report(self._hashed)

    def _write(self, writer: DirectWriter, block: memoryview, start: int) -> None:
        done = 0
        while done < len(block):
            done += writer.write(block[done:], start + done)
        if not writer.is_direct:
            begin_writing(self._target, start, done)


def _page_aligned_blocks() -> list[memoryview]:
    memory = memoryview(mmap.mmap(-1, _BLOCKS * _BLOCK))
    return [memory[start : start + _BLOCK] for start in range(0, len(memory), _BLOCK)]
