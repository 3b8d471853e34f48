"""Importing files that are on the store's own machine: copied and hashed on the way, or linked."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.copying import FileCopy, UnreadableSourceError
from dmr_adapters.model_store.durability import disk_conditions, make_directories, publish
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import held_lease
from dmr_adapters.model_store.lock import StoreLock, is_current
from dmr_adapters.model_store.partial_file import BLOB_MODE, is_complete
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError
from dmr_core.ports.blob_import import Ahead, BlobImport, BlobImporter
from dmr_core.ports.package_source import SourceFile

__all__ = ["FilesystemBlobImporter"]

_BLOCK: Final = 1024 * 1024
_AT_ONCE: Final = 2  # each takes three threads: one that reads, one that hashes and one that writes
_STEP: Final = 16 * _BLOCK
_ATTEMPTS: Final = 16


class FilesystemBlobImporter(BlobImporter):
    """Imports into the store at ``root``, which is there already; services may use it meanwhile."""

    def __init__(self, root: Path, *, lock_patience: float = 30.0) -> None:
        self._layout = StoreLayout(root.absolute())
        self._lock = StoreLock(self._layout.lock_file, self._layout.root, lock_patience)

    @asynccontextmanager
    async def begin(self, *, link: bool = False, ahead: Ahead | None = None) -> AsyncIterator[BlobImport]:
        async with AsyncExitStack() as stack:
            importing = FilesystemBlobImport(self._layout, self._lock, stack, link=link, ahead=ahead)
            stack.push_async_callback(finish_in_thread, importing.discard)
            yield importing


@attrs.frozen
class _Staged:
    """A file that was taken. ``copy`` is the locked file that becomes the blob, ``None`` where the source is linked."""

    source: Path
    status: os.stat_result
    digest: Digest
    copy: tuple[Path, int] | None


class FilesystemBlobImport(BlobImport):
    """One import. Copies wait in the store's directory for temporary files, locked so that nobody clears them away."""

    def __init__(
        self, layout: StoreLayout, lock: StoreLock, leases: AsyncExitStack, *, link: bool, ahead: Ahead | None
    ) -> None:
        self._layout = layout
        self._lock = lock
        self._leases = leases
        self._link = link
        self._ahead = ahead
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._staged: list[_Staged] = []
        self._open: dict[Path, int] = {}
        self._copied: list[Path] = []

    @property
    def copied(self) -> tuple[Path, ...]:
        return tuple(self._copied)

    async def take(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()

        def report(done: int) -> None:
            if read is not None:
                loop.call_soon_threadsafe(read, done)

        async with self._turns:
            work = loop.run_in_executor(None, self._take, path, report, abandoned)
            try:
                staged = await asyncio.shield(work)
            except BaseException:
                abandoned.set()
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # looked at: the cancellation is what counts
                raise
        self._staged.append(staged)
        status = staged.status
        return SourceFile(
            path=path,
            name=name,
            digest=staged.digest,
            size=status.st_size,
            mode=stat.S_IMODE(status.st_mode) & 0o777,
            mtime_ns=status.st_mtime_ns,
        )

    async def publish(self) -> None:
        staged, self._staged = self._staged, []
        # Leased before they are there: nobody may collect them until a model needs them.
        lease = held_lease(self._layout, self._lock, {file.digest for file in staged})
        await self._leases.enter_async_context(lease)
        for file in staged:
            await finish_in_thread(lambda file=file: self._publish(file))  # type: ignore[misc]  # bound at once

    def discard(self) -> None:
        """Remove what was not published."""
        for path, descriptor in self._open.items():
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)
        self._open.clear()

    # What follows runs in threads.

    def _take(self, path: Path, report: Callable[[int], None], abandoned: threading.Event) -> _Staged:
        source = _open_source(path)
        try:
            before = os.fstat(source)
            copy = None
            if not (self._link and self._can_link(path, before)):
                copy = self._temporary()
                with disk_conditions(self._layout.root, before.st_size):
                    digest = FileCopy(source, copy[1], copy[0], before.st_size, report, abandoned).run()
            else:
                known = self._ahead(before, report, abandoned) if self._ahead is not None else None
                digest = Digest(known) if known is not None else _hash(source, path, report, abandoned)
            _check_unchanged(path, before, os.fstat(source))
        except UnreadableSourceError as exc:
            raise InvalidRequestError(f"cannot read {str(path)!r}: {exc}") from exc
        finally:
            os.close(source)
        return _Staged(source=path, status=before, digest=digest, copy=copy)

    def _can_link(self, path: Path, status: os.stat_result) -> bool:
        """Whether the file may be linked; found out by doing so, because permissions are not the only reason."""
        trial = self._layout.temporary / f"link-{os.getpid()}-{threading.get_ident()}"
        with disk_conditions(self._layout.root):
            make_directories(self._layout.temporary)
        try:
            os.link(path, trial, follow_symlinks=True)
            return os.path.samestat(trial.stat(), status)
        except FileNotFoundError:
            return True  # somebody who tidies up took it: it was linked
        except OSError:
            self._copied.append(path)
            return False
        finally:
            trial.unlink(missing_ok=True)

    def _temporary(self) -> tuple[Path, int]:
        with disk_conditions(self._layout.root):
            make_directories(self._layout.temporary)
            while True:
                descriptor, name = tempfile.mkstemp(prefix="import.", dir=self._layout.temporary)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_current(descriptor, Path(name)):  # else somebody tidied up before it was locked
                    break
                os.close(descriptor)
            self._open[Path(name)] = descriptor
        return Path(name), descriptor

    def _publish(self, file: _Staged) -> None:
        with disk_conditions(self._layout.root):
            blob = self._layout.blob(file.digest)
            if is_complete(blob, file.status.st_size):
                return
            if file.copy is not None:
                path, descriptor = file.copy
                os.fchmod(descriptor, BLOB_MODE)
                os.fsync(descriptor)
                publish(path, blob)
                os.close(self._open.pop(path))
                return
            for attempt in range(_ATTEMPTS):
                try:
                    self._publish_link(file, blob)
                    return
                except FileNotFoundError:
                    # Nobody can lock a name: whoever tidies up meanwhile takes it for one that was left behind.
                    if attempt == _ATTEMPTS - 1 or not file.source.exists():
                        raise

    def _publish_link(self, file: _Staged, blob: Path) -> None:
        trial = self._layout.temporary / f"link-{os.getpid()}-{file.digest.hex[:16]}"
        os.link(file.source, trial, follow_symlinks=True)
        try:
            _check_unchanged(file.source, file.status, trial.stat())
            descriptor = os.open(trial, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)  # whoever wrote it may not have
            finally:
                os.close(descriptor)
            publish(trial, blob)
        except BaseException:
            with suppress(OSError):
                trial.unlink(missing_ok=True)
            raise


def _open_source(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise InvalidRequestError(f"cannot open {str(path)!r}: {reason}") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequestError(f"cannot open {str(path)!r}: it is not a regular file")
    return descriptor


def _hash(descriptor: int, path: Path, report: Callable[[int], None], abandoned: threading.Event) -> Digest:
    hasher, done, said = hashlib.sha256(), 0, 0
    block = memoryview(bytearray(_BLOCK))
    try:
        while not abandoned.is_set() and (count := os.preadv(descriptor, [block], done)):
            hasher.update(block[:count])
            done += count
            if done - said >= _STEP:
                said = done
                report(done)
    except OSError as exc:
        raise InvalidRequestError(f"cannot read {str(path)!r}: {exc.strerror}") from exc
    return Digest(hasher.hexdigest())


def _check_unchanged(path: Path, before: os.stat_result, after: os.stat_result) -> None:
    seen = [(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) for status in (before, after)]
    if seen[0] != seen[1]:
        raise InvalidRequestError(f"{str(path)!r} changed while it was read: wait until it is complete, and try again")
