"""Reading the head of a large file forwards, through a window of fixed size.

Not a memory map: a file that another process truncates while it is mapped kills the reader (SIGBUS),
and the daemon is such a reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from dmr_core.errors import InvalidRequestError, MalformedArtifactError

__all__ = ["HeaderFile", "open_header"]

_WINDOW: Final = 256 * 1024


class HeaderFile:
    """Bytes of a file in order. Nothing is allocated for a length before it is known to fit into the file."""

    def __init__(self, file: FileIO, path: Path, size: int, what: str) -> None:
        self.path = path
        self.size = size
        self._file = file
        self._what = what
        self._window = b""
        self._start = 0  # where the window lies in the file
        self._at = 0  # where the next byte lies in the window, or past it

    @property
    def position(self) -> int:
        """Where in the file the next byte is."""
        return self._start + self._at

    def malformed(self, reason: str, at: int | None = None) -> MalformedArtifactError:
        """An error that names the file and the byte, for the caller to raise."""
        place = self.position if at is None else at
        return MalformedArtifactError(f"malformed {self._what} file {str(self.path)!r} at byte {place}: {reason}")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; the caller has bounded ``count``.

        Raises:
            MalformedArtifactError: the file ends before.
        """
        self._need(count)
        begin = self._at
        self._at += count
        return self._window[begin : self._at]

    def number(self, layout: struct.Struct) -> int:
        """The next integer, in the given layout."""
        self._need(layout.size)
        value: int = layout.unpack_from(self._window, self._at)[0]
        self._at += layout.size
        return value

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes without reading them.

        Raises:
            MalformedArtifactError: the file ends before.
        """
        if self.position + count > self.size:
            raise self._cut_off(count)
        self._at += count

    def skip_prefixed(self, count: int, length: struct.Struct) -> None:
        """Pass over ``count`` strings, each preceded by its length: a vocabulary has hundreds of thousands.

        Raises:
            MalformedArtifactError: the file ends before.
        """
        unpack, width = length.unpack_from, length.size
        window, at, last = self._window, self._at, len(self._window) - width
        for _ in range(count):
            if at > last:
                self._at = at
                self._need(width)
                window, at, last = self._window, self._at, len(self._window) - width
            at += width + unpack(window, at)[0]
        self._at = at
        self._need(0)

    def _need(self, count: int) -> None:
        """See to it that the next ``count`` bytes are in the window."""
        if self._at + count <= len(self._window):
            return
        position = self.position
        if position + count > self.size:
            raise self._cut_off(count)
        self._file.seek(position)
        self._window = self._file.read(max(count, _WINDOW))
        self._start, self._at = position, 0
        if len(self._window) < count:
            raise self._cut_off(count)

    def _cut_off(self, count: int) -> MalformedArtifactError:
        return self.malformed(
            f"{count} more bytes should follow, but the file ends at byte {self.size}: it is damaged or was cut off"
        )


@contextmanager
def open_header(path: Path, what: str) -> Iterator[HeaderFile]:
    """The head of the file at ``path``; ``what`` names its format in errors.

    Raises:
        InvalidRequestError: the file cannot be opened or read.
    """
    try:
        with FileIO(path) as file:
            yield HeaderFile(file, path, path.stat().st_size, what)
    except OSError as exc:
        raise InvalidRequestError(f"cannot read {str(path)!r}: {exc.strerror or exc}") from exc
