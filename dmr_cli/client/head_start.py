"""Hashing a file while the modules that need its digest are still being imported."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["HeadStart", "head_start"]

_BLOCK: Final = 1024 * 1024  # stays in the processor's cache between being read and being hashed
_STEP: Final = 16 * _BLOCK


class HeadStart:
    """The SHA-256 of a file, in a thread that begins at once.

    It raises nothing: a file that cannot be read has no head start, and whoever reads it next says why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._status: os.stat_result | None = None
        self._digest: str | None = None
        self._done = 0
        self._ended = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dmr-head-start", daemon=True)
        self._thread.start()

    def digest(self, status: os.stat_result, report: Callable[[int], None], abandoned: threading.Event) -> str | None:
        """The digest in hex, once it is known; ``None`` unless the file had ``status`` before its first byte was read.

        Waits, so it belongs in a thread. ``report`` is told the bytes hashed so far. Whoever uses the digest has to see
        after this call that the status is still the same. With ``abandoned`` set it is ``None`` within a block or two.
        """
        with self._changed:
            while not self._ended and not abandoned.is_set():
                self._changed.wait()
                report(self._done)
        if self._status is None or abandoned.is_set() or _identity(self._status) != _identity(status):
            return None
        return self._digest

    def stop(self) -> None:
        """Hash no further, and return once the thread is over."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._hash()
        except (OSError, ValueError):  # ValueError: a NUL in the name
            self._digest = None
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hash(self) -> None:
        # A pipe would wait for its writer, were it not for O_NONBLOCK.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return
            self._status = status
            hasher, done = hashlib.sha256(), 0
            block = memoryview(bytearray(_BLOCK))
            while count := os.preadv(descriptor, [block], done):
                if self._stopped.is_set():
                    return
                hasher.update(block[:count])
                done += count
                if done - self._done >= _STEP:
                    with self._changed:
                        self._done = done
                        self._changed.notify_all()
            self._digest = hasher.hexdigest()
        finally:
            os.close(descriptor)


@contextmanager
def head_start(path: Path | None) -> Iterator[HeadStart | None]:
    """Hash the file at ``path``, if there is one to hash, until the digest is known or the block is left."""
    if path is None:
        yield None
        return
    ahead = HeadStart(path)
    try:
        yield ahead
    finally:
        ahead.stop()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
