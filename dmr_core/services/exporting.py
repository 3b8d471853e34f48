"""Giving models away as archives, which :mod:`dmr_core.services.loading` takes in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

import attrs

from dmr_core.domain.archive import (
    ARCHIVE_END,
    MANIFEST_NAME,
    archive_directories,
    archive_header,
    archive_padding,
    archive_size,
    blob_name,
)
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.model import Model
from dmr_core.errors import ModelNotFoundError, PreconditionError
from dmr_core.ports.model_store import ModelStore
from dmr_core.services.catalog import CatalogService

__all__ = ["Export", "ExportingService"]


@attrs.frozen(kw_only=True)
class Export:
    """An archive that is being made: ``size`` bytes in all. Whoever reads ``chunks`` closes it, read or not."""

    model: Model
    size: int
    chunks: AsyncGenerator[bytes, None]


class ExportingService:
    """Writes archives of models in a store."""

    def __init__(self, *, store: ModelStore, catalog: CatalogService) -> None:
        self._store = store
        self._catalog = catalog

    async def size(self, name: str) -> int:
        """How long the archive of the model ``name`` would be, in bytes.

        Raises:
            ModelNotFoundError, InvalidReferenceError: nothing answers to ``name``.
        """
        model = await self._catalog.find_stored(name)
        return archive_size(model.manifest, len(await self._manifest(model)))

    async def export(self, name: str) -> Export:
        """Begin to export the model ``name``. It, and its blobs, cannot be removed until the chunks are closed.

        Raises:
            ModelNotFoundError, InvalidReferenceError: nothing answers to ``name``.
            PreconditionError: a blob of the model is missing or damaged; says which.
        """
        model = await self._catalog.find_stored(name)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                self._store.lease((model.id, *(blob.digest for blob in model.manifest.blobs)))
            )
            manifest = await self._manifest(model)
            for blob in model.manifest.blobs:  # now, while the answer can still be an error
                if not await self._store.has_blob(blob.digest, blob.size):
                    state = "is damaged" if await self._store.has_blob(blob.digest) else "is missing"
                    raise PreconditionError(
                        f"cannot export {name!r}: blob {blob.digest} {state}; `dmr system check --repair` tells more"
                    )
            chunks = self._chunks(model, manifest, stack.pop_all())
            # Entered, so that its lease ends however early it is closed.
            await anext(chunks)
        return Export(model=model, size=archive_size(model.manifest, len(manifest)), chunks=chunks)

    async def _manifest(self, model: Model) -> bytes:
        manifest = await self._store.read_manifest(model.id)
        if manifest is None:
            raise ModelNotFoundError(model.name)  # it is being removed
        return manifest

    async def _chunks(self, model: Model, manifest: bytes, held: AsyncExitStack) -> AsyncGenerator[bytes, None]:
        async with held:
            yield b""
            yield archive_directories()
            for blob in model.manifest.blobs:
                yield archive_header(blob_name(blob.digest), blob.size)
                async with aclosing(_exactly(self._store.read_blob(blob.digest), blob)) as pieces:
                    async for piece in pieces:
                        yield piece
                yield archive_padding(blob.size)
            yield archive_header(MANIFEST_NAME, len(manifest))
            yield manifest + archive_padding(len(manifest)) + ARCHIVE_END


async def _exactly(pieces: AsyncIterator[bytes], blob: Descriptor) -> AsyncGenerator[bytes, None]:
    left = blob.size
    async for piece in pieces:
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise PreconditionError(f"blob {blob.digest} does not have the {blob.size} bytes that its manifest says")
