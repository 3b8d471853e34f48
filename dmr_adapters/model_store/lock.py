"""Locks between tasks and between processes."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from dmr_adapters.model_store.durability import disk_conditions, make_directories
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.digest import Digest
from dmr_core.errors import UnavailableError

__all__ = ["DigestLocks", "StoreLock", "is_current", "try_flock"]

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25


def try_flock(descriptor: int) -> bool:
    """Lock an open file against other processes, and other openings in this one; never waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the open file: who waited for a lock may find it moved or deleted."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


class DigestLocks:
    """One lock per digest for the tasks of this process; those nobody holds are forgotten."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()

    def of(self, digest: Digest) -> asyncio.Lock:
        """The lock of ``digest``; keep it for as long as it is held."""
        return self._locks.setdefault(digest, asyncio.Lock())


class StoreLock:
    """The right to change the index: one task of one process at a time.

    Tasks queue in memory, so that only the first in line asks the file.
    """

    def __init__(self, path: Path, root: Path, patience: float) -> None:
        self._path = path
        self._root = root
        self._patience = patience
        self._turn = asyncio.Lock()
        self._descriptor: int | None = None

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold the lock.

        Raises:
            UnavailableError: another process kept it for longer than ``patience`` seconds.
            StoreUnwritableError: the lock file cannot be opened.
        """
        async with self._turn:
            try:
                await self._acquire()
                yield
            finally:
                self._release()

    async def _acquire(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + self._patience, _FIRST_PAUSE
        while not await finish_in_thread(self._try):
            if clock() >= deadline:
                raise UnavailableError(
                    f"the model store at {str(self._root)!r} has been locked by another process for"
                    f" {self._patience:g} s; try again when it is done",
                    retry_after=self._patience,
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self) -> bool:
        with disk_conditions(self._root):
            make_directories(self._path.parent)
            # Kept at once, so that a caller cancelled meanwhile still closes it.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if try_flock(self._descriptor) and is_current(self._descriptor, self._path):
                return True
        self._release()
        return False

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
