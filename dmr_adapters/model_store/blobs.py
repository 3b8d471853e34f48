"""Reading blobs, and handing out the writers of new ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.blob_writer import FilesystemBlobWriter
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import DigestLocks
from dmr_adapters.model_store.partial_file import BLOB_MODE, is_complete
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import NotFoundError
from dmr_core.ports.model_store import BlobWriter

__all__ = ["BLOB_MODE", "BlobIngest", "is_complete", "read_blob", "space_needed"]

_BLOCK: Final = 1024 * 1024
_SECTOR: Final = 512  # what st_blocks counts (POSIX, <sys/stat.h>)


async def read_blob(path: Path, digest: Digest, offset: int) -> AsyncIterator[bytes]:
    """The bytes of a blob from ``offset`` on, in blocks.

    Raises:
        NotFoundError: there is no such blob.
    """
    with ExitStack() as stack:
        try:
            # Entered in the thread, so that a caller cancelled meanwhile still closes it.
            file = await finish_in_thread(lambda: stack.enter_context(path.open("rb", buffering=0)))
        except FileNotFoundError as exc:
            raise NotFoundError(f"blob {str(digest)!r} not found in the model store") from exc
        await finish_in_thread(lambda: file.seek(offset))
        while block := await finish_in_thread(lambda: file.read(_BLOCK)):
            yield block


def space_needed(layout: StoreLayout, blobs: Iterable[Descriptor]) -> int:
    """Bytes of the disk that what is missing of ``blobs`` will take; what partials have already does not count."""
    needed = 0
    for blob in {blob.digest: blob for blob in blobs}.values():
        if is_complete(layout.blob(blob.digest), blob.size):
            continue
        had = 0
        for partial in (layout.partial(blob.digest), layout.reference_partial(blob.digest)):
            with suppress(OSError):
                had = max(had, partial.stat().st_blocks * _SECTOR)
        needed += max(0, blob.size - had)
    return needed


class BlobIngest:
    """Hands out writers, one at a time for each digest."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._locks = DigestLocks()

    @asynccontextmanager
    async def writer(self, descriptor: Descriptor) -> AsyncIterator[BlobWriter]:
        """Begin or resume a blob; waits while another task or process writes it."""
        async with self._locks.of(descriptor.digest):
            writer = FilesystemBlobWriter(self._layout, descriptor)
            try:
                await writer.open()
                yield writer
            finally:
                await writer.close()
