"""Copying a file within the machine, and hashing the copy behind it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from typing import Final

from dmr_adapters.model_store.kernel import begin_writing, reserve
from dmr_core.domain.digest import Digest

__all__ = ["FileCopy"]

_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)
_BLOCK: Final = 1024 * 1024
_STEP: Final = 8 * _BLOCK
_ELSEWISE: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTTY, errno.EBADF, errno.ETXTBSY}
)
"""What the kernel says where it cannot copy this way."""


class FileCopy:
    """Copies ``size`` bytes of ``source`` to ``target``, both open; ``report`` is told the bytes hashed so far.

    What is hashed is the copy, so that the digest is true of it whatever becomes of the source meanwhile. The copy
    shares the blocks of the source where the file system can, and is made by the kernel where it can.
    """

    def __init__(
        self, source: int, target: int, size: int, report: Callable[[int], None], abandoned: threading.Event
    ) -> None:
        self._source = source
        self._target = target
        self._size = size
        self._report = report
        self._abandoned = abandoned
        self._there = 0
        self._ended = False
        self._changed = threading.Condition()

    def run(self) -> Digest:
        """Copy and hash; the digest of the copy. In a thread, and takes one more.

        Raises:
            OSError: the disk is full, or cannot be read or written.
        """
        if self._clone():
            self._there, self._ended = self._size, True
            return self._hash()
        hashed: list[Digest] = []
        failed: list[BaseException] = []

        def hash_behind() -> None:
            try:
                hashed.append(self._hash())
            except BaseException as exc:  # raised again by whoever waits for this thread
                failed.append(exc)

        hashing = threading.Thread(target=hash_behind, name="dmr-import-hash", daemon=True)
        hashing.start()
        try:
            reserve(self._target, 0, self._size)
            self._copy()
        finally:
            self._advance(0, ended=True)
            hashing.join()
        if failed:
            raise failed[0]
        return hashed[0]

    def _clone(self) -> bool:
        try:
            fcntl.ioctl(self._target, _FICLONE, self._source)
        except OSError:
            return False
        return os.fstat(self._target).st_size == self._size

    def _copy(self) -> None:
        by_kernel, done = True, 0
        while done < self._size and not self._abandoned.is_set():
            wanted = min(_STEP, self._size - done)
            if by_kernel:
                try:
                    count = os.copy_file_range(self._source, self._target, wanted, done, done)
                except OSError as exc:
                    if exc.errno not in _ELSEWISE:
                        raise
                    by_kernel = False
                    continue
            else:
                count = self._copy_block(done, min(wanted, _BLOCK))
            if not count:
                return  # the source became shorter, which its status will tell
            begin_writing(self._target, done, count)
            done += count
            self._advance(count)

    def _copy_block(self, done: int, wanted: int) -> int:
        block = os.pread(self._source, wanted, done)
        left = memoryview(block)
        while left:
            written = os.pwrite(self._target, left, done + len(block) - len(left))
            left = left[written:]
        return len(block)

    def _advance(self, count: int, *, ended: bool = False) -> None:
        with self._changed:
            self._there += count
            self._ended = self._ended or ended
            self._changed.notify()

    def _wait_beyond(self, done: int) -> int:
        """How far the copy is, once that is beyond ``done`` or the copy has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._there > done or self._ended)
            return self._there

    def _hash(self) -> Digest:
        hasher, done, said = hashlib.sha256(), 0, 0
        block = memoryview(bytearray(_BLOCK))
        while not self._abandoned.is_set():
            there = self._wait_beyond(done)
            if done >= there:
                break
            while done < there and not self._abandoned.is_set():
                count = os.preadv(self._target, [block[: min(_BLOCK, there - done)]], done)
                if not count:
                    raise OSError(errno.EIO, "the copy became shorter")
                hasher.update(block[:count])
                done += count
            if done - said >= 2 * _STEP:
                said = done
                self._report(done)
        return Digest(hasher.hexdigest())
