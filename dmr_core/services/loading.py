"""Taking in models from archives, such as ``export`` writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Final, Self

from dmr_core.domain.archive import MANIFEST_NAME, ArchiveEntry, read_archive
from dmr_core.domain.artifact import Artifact, Descriptor, Manifest, ModelConfig, check_supported
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.errors import (
    DigestMismatchError,
    InvalidRequestError,
    MalformedArtifactError,
    NotFoundError,
    ShuttingDownError,
)
from dmr_core.ports.model_store import ModelStore

__all__ = ["LoadingService"]

_MAX_MANIFEST: Final = 4 * 1024 * 1024  # OCI distribution-spec, "Pushing Manifests": registries need take no more
_MAX_CONFIG: Final = 8 * 1024 * 1024
_ANY: Final = "application/octet-stream"  # what a blob is, only the manifest tells, and it may come last
_BLOBS: Final = "blobs/sha256/"
_MANY: Final = 64


class LoadingService:
    """Loads models into a store. Decoding documents is the adapters' business, so it is handed in."""

    def __init__(
        self,
        store: ModelStore,
        *,
        decode_manifest: Callable[[bytes], Manifest],
        decode_config: Callable[[bytes], ModelConfig],
    ) -> None:
        self._store = store
        self._decode_manifest = decode_manifest
        self._decode_config = decode_config
        self._running: set[asyncio.Task[Model]] = set()
        self._closed = asyncio.Event()

    async def aclose(self) -> None:
        """Load nothing more, and end what is under way; whoever waits for it gets an error that says so."""
        self._closed.set()
        tasks = tuple(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def load(self, chunks: AsyncIterator[bytes]) -> Model:
        """Store the model whose archive ``chunks`` carry; it gets no tag. Loading one that is here is a no-op.

        Blobs and manifest may come in any order; blobs that are in the store already may be missing.
        When it fails or is cancelled no model is added; blobs that were complete stay, and are found
        by the next attempt or the garbage collector.

        Raises:
            MalformedArtifactError: the archive is damaged, cut off, or lacks a manifest or a blob.
            UnsupportedFormatError: the artifact is one that pulling would refuse.
            StorageFullError, StoreUnwritableError: the store cannot take it.
            ShuttingDownError: the service is closed, or was closed meanwhile.
        """
        if self._closed.is_set():
            raise ShuttingDownError("the service is shutting down")
        # In a task of its own, which can be ended without ending the one that is to tell the client.
        task = asyncio.create_task(self._load(chunks), name="load")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        except asyncio.CancelledError as exc:
            caller = asyncio.current_task()
            if not self._closed.is_set() or (caller is not None and caller.cancelling()):
                raise
            raise ShuttingDownError("the load was cancelled: the service is shutting down; send it again") from exc

    async def _load(self, chunks: AsyncIterator[bytes]) -> Model:
        found: tuple[bytes, Manifest] | None = None
        sizes: dict[Digest, int] = {}
        async with _Leases(self._store) as leases, aclosing(read_archive(chunks)) as entries:
            async for entry in entries:
                if entry.name.text == MANIFEST_NAME:
                    if found is not None:
                        raise MalformedArtifactError(f"malformed archive: more than one {MANIFEST_NAME}")
                    data = await _whole(entry.chunks, _MAX_MANIFEST, MANIFEST_NAME)
                    found = data, self._decode_manifest(data)
                    check_supported(found[1])  # at once: where it comes first, gigabytes are not written in vain
                elif (digest := _digest(entry)) is not None:
                    await leases.add(digest)  # before it is looked for: nobody may collect it from now on
                    await self._take(entry, digest)
                    sizes[digest] = entry.size
            if found is None:
                raise MalformedArtifactError(
                    f"manifest not found: the archive holds no {MANIFEST_NAME}, so it is not an exported model"
                )
            await leases.add(*(blob.digest for blob in found[1].blobs))
            return await self._add(*found, sizes)

    async def _take(self, entry: ArchiveEntry, digest: Digest) -> None:
        if await self._store.has_blob(digest, entry.size):
            return
        described = Descriptor(media_type=_ANY, digest=digest, size=entry.size)
        await self._store.require_space([described])  # what an archive claims may be more than any disk has
        try:
            async with self._store.write_blob(described) as writer:
                if writer.offset:
                    await writer.restart()  # all bytes are at hand: nothing is won by trusting an old beginning
                async for chunk in entry.chunks:
                    await writer.write(chunk)
                await writer.commit()
        except DigestMismatchError as exc:
            raise MalformedArtifactError(
                f"malformed archive: {entry.name} does not hold what its name says ({exc.message}); send it again"
            ) from exc

    async def _add(self, manifest_bytes: bytes, manifest: Manifest, sizes: dict[Digest, int]) -> Model:
        for blob in manifest.blobs:
            if sizes.get(blob.digest, blob.size) != blob.size:
                raise MalformedArtifactError(
                    f"malformed archive: blob {blob.digest} has {sizes[blob.digest]} bytes, its manifest says {blob.size}"
                )
            if blob.digest not in sizes and not await self._store.has_blob(blob.digest, blob.size):
                raise MalformedArtifactError(f"malformed archive: blob {blob.digest} is neither in it nor in the store")
        config_bytes = await self._config_bytes(manifest.config)
        artifact = Artifact(
            manifest=manifest,
            manifest_bytes=manifest_bytes,
            config=self._decode_config(config_bytes),
            config_bytes=config_bytes,
        )
        return await self._store.add(artifact)

    async def _config_bytes(self, config: Descriptor) -> bytes:
        try:
            return await _whole(self._store.read_blob(config.digest), _MAX_CONFIG, f"config {config.digest}")
        except NotFoundError as exc:
            raise MalformedArtifactError(f"malformed archive: config {config.digest} is missing") from exc


class _Leases:
    """Keeps blobs from being collected, one after another, as an archive tells of them.

    Each lease is an open file, so many small ones are replaced by one now and then.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._held: set[Digest] = set()
        self._leases = AsyncExitStack()
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leases.aclose()

    async def add(self, *digests: Digest) -> None:
        new = set(digests) - self._held
        if not new:
            return
        self._held |= new
        self._count += 1
        if self._count % _MANY:
            await self._leases.enter_async_context(self._store.lease(new))
            return
        earlier, self._leases = self._leases, AsyncExitStack()
        try:
            await self._leases.enter_async_context(self._store.lease(self._held))
        finally:
            await earlier.aclose()


async def _whole(chunks: AsyncIterator[bytes], limit: int, what: str) -> bytes:
    parts, left = [], limit
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise MalformedArtifactError(f"malformed archive: {what} is longer than {limit} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _digest(entry: ArchiveEntry) -> Digest | None:
    """Which blob an entry is; ``None`` for files that are no blobs, which other tools add and nobody needs."""
    name = entry.name.text
    if not name.startswith(_BLOBS):
        return None
    try:
        return Digest(name.removeprefix(_BLOBS))
    except InvalidRequestError as exc:
        raise MalformedArtifactError(f"malformed archive: {name[:200]!r} is not named by a digest") from exc
