"""The file of a blob that is not complete: taken by one writer at a time, with its journal, until it is published."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.durability import disk_conditions, make_directories, publish
from dmr_adapters.model_store.journal import PartsJournal
from dmr_adapters.model_store.kernel import reserve
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import is_current, try_flock
from dmr_core.domain.digest import Digest
from dmr_core.domain.spans import Span, SpanSet

__all__ = ["BLOB_MODE", "PartialFile", "is_complete"]

BLOB_MODE: Final = 0o444
_AT_ONCE: Final = 512  # buffers in one call, half of what Linux takes (IOV_MAX)


def is_complete(path: Path, size: int) -> bool:
    """Whether the blob at ``path`` is here with all its bytes; one cut short is to be fetched again."""
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


class PartialFile:
    """``.dmr/ingest/<hex>``, locked for as long as it is open. Its methods block; several threads may write at once.

    The disk gives the room for all of it when it is taken. ``is_published`` says that the blob is complete, by
    whomever. Every method raises StorageFullError or StoreUnwritableError where the disk refuses.
    """

    def __init__(self, layout: StoreLayout, digest: Digest, size: int) -> None:
        self.is_published = False
        self.path = layout.partial(digest)
        self._layout = layout
        self._blob = layout.blob(digest)
        self._theirs = layout.reference_partial(digest)
        self._size = size
        self._journal = PartsJournal(layout.journal(digest), size)
        self._file: int | None = None
        self._here = SpanSet()
        self._turn = threading.Lock()  # over what is here and its journal

    @property
    def is_open(self) -> bool:
        """Whether this has the file."""
        return self._file is not None

    @property
    def descriptor(self) -> int:
        """The open file."""
        if self._file is None:
            raise ValueError("the partial blob is not open")
        return self._file

    @property
    def count(self) -> int:
        """How many bytes are here."""
        with self._turn:
            return self._here.count

    def prefix(self) -> int:
        """How many bytes are here from byte 0 on."""
        with self._turn:
            return self._here.prefix

    def missing(self) -> tuple[Span, ...]:
        """What is not here."""
        with self._turn:
            return self._here.missing(self._size)

    def take(self) -> bool:
        """Take the file, or find the blob complete. False: somebody else is writing it."""
        with disk_conditions(self._layout.root, self._size):
            if is_complete(self._blob, self._size):
                self.is_published = True
                return True
            make_directories(self.path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            # Kept at once, so that a caller cancelled meanwhile still closes it.
            self._file = os.open(self.path, flags, 0o644)
            if not (try_flock(self._file) and is_current(self._file, self.path)):
                os.close(self._file)
                self._file = None
                return False
            if is_complete(self._blob, self._size):  # whoever had the lock before has just finished it
                self.is_published = True
                self.path.unlink()
                self._journal.discard()
                return True
            self._adopt_reference_partial()
            self._take_up()
            # Said before the first byte rather than an hour later.
            for gap in self.missing():
                reserve(self.descriptor, gap.start, len(gap))
        return True

    def write(self, start: int, chunks: list[bytes]) -> None:
        """Write ``chunks`` from ``start`` on. What was written before a failure is here."""
        position, left = start, [memoryview(chunk) for chunk in chunks]
        with disk_conditions(self._layout.root, self._size - self.count):
            self.before_gap(start)
            try:
                while left:
                    position += _taken(os.pwritev(self.descriptor, left[:_AT_ONCE], position), left)
            finally:
                self.record(start, position)

    def before_gap(self, start: int) -> None:
        """Make sure that no gap is ever taken for bytes: called before anything is written from ``start`` on."""
        with self._turn:
            if not self._journal.is_there and start > self._here.prefix:
                self._journal.write(self._here)

    def record(self, start: int, end: int) -> None:
        """Note that these bytes were written."""
        with self._turn:
            self._here.add(start, end)
            if self._journal.is_there:
                self._journal.write(self._here)

    def empty(self) -> None:
        """Throw away what is here."""
        with disk_conditions(self._layout.root, self._size):
            with self._turn:
                self._here.clear()
            os.ftruncate(self.descriptor, 0)
            self._journal.discard()
            reserve(self.descriptor, 0, self._size)

    def publish(self) -> None:
        """Make it the blob, for good."""
        with disk_conditions(self._layout.root):
            os.fchmod(self.descriptor, BLOB_MODE)
            os.ftruncate(self.descriptor, self._size)
            os.fsync(self.descriptor)
            publish(self.path, self._blob)
            self._journal.discard()
        self.is_published = True

    def close(self) -> None:
        """Let go of it; the room nothing was written to is given back, and a file that holds nothing is deleted."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if not self.is_published:
                with suppress(OSError):
                    if self._here.count:
                        os.ftruncate(file, os.fstat(file).st_size)
                    else:
                        self.path.unlink()
                        self._journal.discard()
        finally:
            self._journal.close()
            os.close(file)

    def _adopt_reference_partial(self) -> None:
        """Take over what the reference runner has of this blob: a prefix as well, and further along than nothing."""
        if os.fstat(self.descriptor).st_size:
            return
        try:
            file = os.open(self._theirs, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        if not 0 < os.fstat(file).st_size <= self._size or not try_flock(file):
            os.close(file)
            return
        try:
            self._theirs.rename(self.path)
        except OSError:
            os.close(file)
            return
        self._journal.discard()
        os.close(self.descriptor)
        self._file = file

    def _take_up(self) -> None:
        """Find out what an earlier attempt left."""
        length = os.fstat(self.descriptor).st_size
        recorded = self._journal.read()
        if recorded is None and length <= self._size:
            self._here.add(0, length)
            return
        for span in recorded or ():
            self._here.add(span.start, min(span.end, length))
        if not self._here.count:
            self.empty()


def _taken(count: int, left: list[memoryview]) -> int:
    """Take the first ``count`` bytes off ``left``."""
    taken = count
    while taken:
        if len(left[0]) <= taken:
            taken -= len(left.pop(0))
        else:
            left[0] = left[0][taken:]
            taken = 0
    return count
