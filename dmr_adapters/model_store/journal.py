"""Which parts of an unfinished blob are on the disk, in a file beside it.

A blob that is received from its beginning needs none: what is there is as long as its file. One that is received in
parts has gaps, and this says where. It is replaced in one write of one block after every block of the blob, so a
process killed in between loses that block at most. After a power failure it may promise more than the disk kept; so
nothing resumed is believed before its digest was checked.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmr_core.domain.spans import SpanSet

__all__ = ["PartsJournal"]

_MAGIC: Final = "dmr-parts 1"
_LENGTH: Final = 4096
_FORMAT: Final = re.compile(rb"dmr-parts 1 ([0-9]{1,19}) ([0-9,-]*) ([0-9a-f]{8})\n *")
_SPAN: Final = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


class PartsJournal:
    """The journal at ``path`` of a blob of ``size`` bytes. Not open, and perhaps not there, at first."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._file: int | None = None
        self.is_there = False  # so that everything that is written has to be recorded

    def read(self) -> SpanSet | None:
        """What an earlier attempt recorded; ``None`` where it recorded nothing, empty where that is damaged."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = os.read(descriptor, _LENGTH + 1)
        finally:
            os.close(descriptor)
        self.is_there = True
        if not data:  # made, and not written before the process was killed: there was no gap then
            return None
        return _decode(data, self._size)

    def write(self, spans: SpanSet) -> None:
        """Record that ``spans`` are on the disk.

        Raises:
            OSError: the disk refused.
        """
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._path, flags, 0o644)
            self.is_there = True
        os.pwrite(self._file, _encode(spans, self._size), 0)

    def close(self) -> None:
        """Stop recording; the journal stays."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def discard(self) -> None:
        """Stop recording and delete the journal."""
        self.close()
        self.is_there = False
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _encode(spans: SpanSet, size: int) -> bytes:
    listed = sorted(spans, key=len, reverse=True)
    while True:
        text = f"{_MAGIC} {size} {','.join(f'{span.start}-{span.end}' for span in sorted(listed))} "
        data = text.encode()
        data += b"%08x\n" % zlib.crc32(data)
        if len(data) <= _LENGTH:
            return data.ljust(_LENGTH)
        listed.pop()  # the shortest is the cheapest to fetch again


def _decode(data: bytes, size: int) -> SpanSet:
    found = _FORMAT.fullmatch(data)
    if not found or int(found[1]) != size or zlib.crc32(data[: found.start(3)]) != int(found[3], 16):
        return SpanSet()
    spans = SpanSet()
    for part in filter(None, found[2].decode().split(",")):
        match = _SPAN.fullmatch(part)
        if match and int(match[1]) < int(match[2]) <= size:
            spans.add(int(match[1]), int(match[2]))
    return spans
