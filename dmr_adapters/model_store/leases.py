"""Leases: what is being used, said to every process that shares the store.

A lease is a file that lists digests, one a line, after a line with the process that holds it. It is locked for as long as it
counts, so the lease of a process that died is void, however it died. Leases are made under the store's lock, and so is whatever
deletes: a lease that was made before is seen, one that is made later finds what is left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.durability import disk_conditions, make_directories
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import StoreLock, try_flock
from dmr_adapters.model_store.reserve import with_reserve
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.digest import Digest
from dmr_core.errors import ModelInUseError

__all__ = ["Lease", "held_lease", "leased_digests", "live_leases", "refuse_if_leased"]

_LINE: Final = re.compile(rb"^sha256:([0-9a-f]{64})$", re.MULTILINE)
_HOLDER: Final = re.compile(rb"^process ([0-9]{1,10})$", re.MULTILINE)
_PREFIX: Final = "lease-"
_NO_LEASE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO})  # it is gone; a link; a socket
_MAX_LENGTH: Final = 2 * 1024 * 1024  # 10,000 layers, and more, fit


@attrs.frozen
class Lease:
    """A lease somebody holds; ``process`` is ``None`` where it does not say."""

    process: int | None
    digests: frozenset[Digest]

    @property
    def holder(self) -> str:
        """Who has it, for messages."""
        if self.process == os.getpid():
            return "this service"
        return "another process" if self.process is None else f"process {self.process}"


@asynccontextmanager
async def held_lease(layout: StoreLayout, lock: StoreLock, digests: Iterable[Digest]) -> AsyncIterator[None]:
    """Hold a lease on ``digests``.

    Raises:
        UnavailableError: another process kept the store locked.
        StorageFullError, StoreUnwritableError: the lease could not be written.
    """
    file = _LeaseFile(layout, frozenset(digests))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(finish_in_thread, file.release)
        async with lock.hold():
            await finish_in_thread(lambda: with_reserve(layout, file.take))
        yield


def live_leases(layout: StoreLayout, *, sweep: bool = False) -> Iterator[Lease]:
    """Every lease that somebody holds. ``sweep`` deletes those of the dead; the store's lock is held then.

    Raises:
        StoreUnwritableError: one cannot be looked at. Nobody may conclude from that that nothing is used.
    """
    with disk_conditions(layout.root):
        try:
            names = sorted(os.listdir(layout.leases))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            names = []
        found = [_read(layout.leases / name, sweep=sweep) for name in names if name.startswith(_PREFIX)]
    yield from (lease for lease in found if lease is not None)


def leased_digests(layout: StoreLayout, *, sweep: bool = False) -> frozenset[Digest]:
    """Every digest that some lease names."""
    return frozenset().union(*(lease.digests for lease in live_leases(layout, sweep=sweep)))


def refuse_if_leased(layout: StoreLayout, model_id: Digest, name: str) -> frozenset[Digest]:
    """Every digest that is leased, unless one of them is this model's. The store's lock is held.

    Raises:
        ModelInUseError: somebody uses the model.
    """
    leases = list(live_leases(layout, sweep=True))
    for lease in leases:
        if model_id in lease.digests:
            raise ModelInUseError(
                f"model {name!r} is being used by {lease.holder}: it runs, or is being pushed or pulled;"
                " unload it there, or wait, and try again"
            )
    return frozenset().union(*(lease.digests for lease in leases))


class _LeaseFile:
    """One lease of this process. Its methods run in threads."""

    def __init__(self, layout: StoreLayout, digests: frozenset[Digest]) -> None:
        self._layout = layout
        self._digests = digests
        self._descriptor: int | None = None
        self._path: Path | None = None

    def take(self) -> None:
        self.release()  # what an attempt on a full disk left
        with disk_conditions(self._layout.root):
            make_directories(self._layout.leases)
            self._descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=self._layout.leases)
            self._path = Path(name)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # whoever only looks lets go at once
            os.fchmod(self._descriptor, 0o644)
            lines = [f"process {os.getpid()}", *map(str, sorted(self._digests))]
            left = memoryview("".join(f"{line}\n" for line in lines).encode())
            while left:  # a disk that is nearly full takes a part of it
                left = left[os.write(self._descriptor, left) :]

    def release(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _read(path: Path, *, sweep: bool) -> Lease | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in _NO_LEASE:
            return None
        raise
    try:
        if try_flock(descriptor):
            if sweep:
                with suppress(OSError):
                    path.unlink()
            return None
        data = os.read(descriptor, _MAX_LENGTH)
    finally:
        os.close(descriptor)
    holder = _HOLDER.search(data)
    return Lease(int(holder[1]) if holder else None, frozenset(Digest(found.decode()) for found in _LINE.findall(data)))
