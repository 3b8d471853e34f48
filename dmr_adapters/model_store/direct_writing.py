"""Writing past the page cache, where that can be.

A model of forty gigabytes would drive out of memory what running engines have mapped, and taking fresh pages can cost
more than hashing what goes into them.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

__all__ = ["ALIGNMENT", "DirectWriter"]

ALIGNMENT: Final = 4096
"""Of address, offset and length of a direct write, open(2): the largest sector there is."""


class DirectWriter:
    """Writes to the file at ``path``, which is open as ``descriptor`` too: past the page cache what is aligned.

    To be closed; the descriptor stays open. Where the file system has no such writes, everything goes through the
    page cache.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._direct = _open_direct(path)

    @property
    def is_direct(self) -> bool:
        """Whether aligned writes go past the page cache, as far as is known."""
        return self._direct is not None

    def write(self, view: memoryview, position: int) -> int:
        """Write at ``position``; how many bytes were.

        Raises:
            OSError: they could not be.
        """
        if self._direct is not None and not (position % ALIGNMENT or len(view) % ALIGNMENT):
            try:
                return os.pwrite(self._direct, view, position)
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                self.close()  # this file system wants more than anybody should
        return os.pwrite(self._descriptor, view, position)

    def close(self) -> None:
        """Write nothing more past the page cache."""
        direct, self._direct = self._direct, None
        if direct is not None:
            os.close(direct)


def _open_direct(path: Path) -> int | None:
    flags = getattr(os, "O_DIRECT", 0)  # Linux has it
    if not flags:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags)
    except OSError:
        return None
