"""Taking files that are on this machine into a store without sending them through a service."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from dmr_core.domain.paths import RelativePath
from dmr_core.ports.package_source import SourceFile

__all__ = ["Ahead", "BlobImport", "BlobImporter"]

Ahead = Callable[[os.stat_result, Callable[[int], None], threading.Event], str | None]
"""What somebody hashes already: given a file's status, a report of bytes hashed, and whether it is still wanted, waits
for the SHA-256 in hex. ``None`` where that is another file, or one that changed since its first byte was read.
"""


class BlobImport(Protocol):
    """Files on their way into a store; nothing of them is visible before :meth:`publish`."""

    @abstractmethod
    async def take(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        """Bring a file as far as it goes without being seen, and hash it; ``read`` is told the bytes hashed so far.

        Raises:
            InvalidRequestError: there is no such file, it cannot be read, or it changed meanwhile.
            StorageFullError, StoreUnwritableError: the store cannot take it.
        """

    @abstractmethod
    async def publish(self) -> None:
        """Make everything taken so far blobs of the store, for good. They are leased until the import is left.

        Raises:
            InvalidRequestError: a file that is to be linked changed since it was taken.
            StorageFullError, StoreUnwritableError: the store cannot take it.
        """

    @property
    @abstractmethod
    def copied(self) -> tuple[Path, ...]:
        """Files that were to be linked and had to be copied."""


class BlobImporter(Protocol):
    """Imports files into one store, beside the services that use it."""

    @abstractmethod
    def begin(self, *, link: bool = False, ahead: Ahead | None = None) -> AbstractAsyncContextManager[BlobImport]:
        """Begin an import; leaving it drops what was not published.

        With ``link`` the blob *is* the file where file system and permissions allow it: it takes no second room, and
        whoever changes the file from then on damages the model. A file that is linked and whose digest ``ahead`` knows is
        not read again.
        """
