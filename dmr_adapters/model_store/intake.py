"""Blobs of unknown size, written to a temporary file of the store as they come and hashed on the way."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.durability import disk_conditions, make_directories, publish
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import is_current
from dmr_adapters.model_store.partial_file import BLOB_MODE, is_complete
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError
from dmr_core.ports.blob_intake import BlobIntake

__all__ = ["FilesystemBlobIntake"]

_BLOCK: Final = 4 * 1024 * 1024


class FilesystemBlobIntake(BlobIntake):
    """Takes blobs into the store at ``root``, which is there already."""

    def __init__(self, root: Path) -> None:
        self._layout = StoreLayout(root.absolute())

    async def size(self, digest: Digest) -> int | None:
        return await finish_in_thread(lambda: self._size(digest))

    async def take(self, digest: Digest, chunks: AsyncIterator[bytes]) -> int:
        hasher, size = hashlib.sha256(), 0
        opened: list[tuple[Path, int]] = []  # kept at once, so that a caller cancelled meanwhile still closes it
        try:
            await finish_in_thread(lambda: opened.append(self._temporary()))
            path, descriptor = opened[0]
            held: list[bytes] = []
            waiting = 0
            async for chunk in chunks:
                held.append(chunk)
                waiting += len(chunk)
                if waiting >= _BLOCK:
                    size += await finish_in_thread(lambda parts=held: self._write(descriptor, parts, hasher))  # type: ignore[misc]  # bound at once
                    held, waiting = [], 0
            size += await finish_in_thread(lambda: self._write(descriptor, held, hasher))
            if hasher.hexdigest() != digest.hex:
                raise DigestMismatchError(str(digest), f"sha256:{hasher.hexdigest()}")
            await finish_in_thread(lambda: self._publish(path, descriptor, digest, size))
        finally:
            for name, taken in opened:
                with suppress(FileNotFoundError):
                    name.unlink()  # what was published has its name no more
                os.close(taken)
        return size

    # What follows runs in threads.

    def _size(self, digest: Digest) -> int | None:
        try:
            return self._layout.blob(digest).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _temporary(self) -> tuple[Path, int]:
        with disk_conditions(self._layout.root):
            make_directories(self._layout.temporary)
            while True:
                descriptor, name = tempfile.mkstemp(prefix="intake.", dir=self._layout.temporary)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_current(descriptor, Path(name)):  # else somebody tidied up before it was locked
                    return Path(name), descriptor
                os.close(descriptor)

    def _write(self, descriptor: int, parts: list[bytes], hasher: hashlib._Hash) -> int:
        size = 0
        with disk_conditions(self._layout.root):
            for part in parts:
                hasher.update(part)
                view = memoryview(part)
                while view:
                    view = view[os.write(descriptor, view) :]
                size += len(part)
        return size

    def _publish(self, path: Path, descriptor: int, digest: Digest, size: int) -> None:
        with disk_conditions(self._layout.root):
            blob = self._layout.blob(digest)
            if is_complete(blob, size):
                return
            os.fchmod(descriptor, BLOB_MODE)
            os.fsync(descriptor)
            publish(path, blob)
