"""The index on the disk. Another process may replace it at any time."""

from __future__ import annotations

import os
import time
from typing import Final

from dmr_adapters.model_store.durability import write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.layout import StoreLayout
from dmr_core.errors import PreconditionError

__all__ = ["IndexFile"]

_Stamp = tuple[int, int, int]

_TICK: Final = 1_000_000_000
"""Nanoseconds within which two versions may have one stamp: file systems tell time by the tick (10 ms; a second or two
on some), and give the number of a file that was replaced to the next one."""


class IndexFile:
    """Reads and replaces ``models.json``; remembers which version it saw last."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._path = layout.index_document
        self._seen: _Stamp | None = None
        self._settled = True  # a later version of the file has another stamp
        self._index, self._data = Index(), b""  # what was read or written last

    def read_if_changed(self) -> Index | None:
        """The index, if it is another than the one last read or written; one ``stat`` when it is not.

        Raises:
            PreconditionError: it is damaged; said once for each version of it.
        """
        try:
            stamp = _stamp(self._path.stat())
        except FileNotFoundError:
            return None if self._seen is None else self.read()
        return None if stamp == self._seen and self._settled else self.read()

    def read(self) -> Index:
        """The index, the very same one while the file says the same; a file that is not there is an empty one.

        Raises:
            PreconditionError: it is damaged.
        """
        try:
            with self._path.open("rb") as file:
                self._see(os.fstat(file.fileno()))
                data = file.read()
        except FileNotFoundError:
            self._seen = None
            return Index()
        if data == self._data and data:
            return self._index
        try:
            self._index, self._data = self._index.reparse(data), data
        except ValueError as exc:
            # Starting over would forget every model, so that is left to a person.
            raise PreconditionError(
                f"the index {str(self._path)!r} is damaged ({exc}): restore it, or delete it to start with an empty one"
            ) from exc
        return self._index

    def write(self, index: Index) -> None:
        """Replace the index, for good. The store's lock is held."""
        data = index.encode()
        self._see(write_durably(self._path, data, temporary=self._layout.temporary))
        self._index, self._data = index, data

    def _see(self, status: os.stat_result) -> None:
        self._seen = _stamp(status)
        self._settled = time.time_ns() - status.st_mtime_ns > _TICK


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino
