"""Making models of blobs that are in the store already, or of another model, with a few layers of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.artifact import Artifact, Descriptor, Format, LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import file_annotations, go_time
from dmr_core.domain.files import Shard, weights_format
from dmr_core.domain.model import Model
from dmr_core.domain.paths import RelativePath
from dmr_core.domain.repackage import Changes
from dmr_core.errors import InvalidRequestError, NotFoundError
from dmr_core.ports.blob_intake import BlobIntake
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.package_source import PackageSource, SourceFile, WeightsMetadata
from dmr_core.services.catalog import CatalogService
from dmr_core.services.packaging import ModelDirectory, PackageRequest, PackagingService, WeightsFile
from dmr_core.services.repackaging import RepackagingService

__all__ = ["BufferedBlobIntake", "CreatingService", "NewLayer", "StoredBlob", "StoredBlobs"]

_ROOT: Final = Path("/")
_MODE: Final = 0o644
_MAX_BUFFERED: Final = 64 * 1024 * 1024

Revise = Callable[[Artifact, Changes], Artifact]


@attrs.frozen(kw_only=True)
class NewLayer:
    """A small file that becomes a layer. ``name`` is where it stands in the model."""

    media_type: LayerType
    name: str
    content: bytes


@attrs.frozen
class StoredBlob:
    """A blob of the store, and its size in bytes."""

    digest: Digest
    size: int


class StoredBlobs(PackageSource):
    """Blobs of a store under names that somebody gave them, as files to package. ``time`` is theirs, for all of them."""

    def __init__(
        self, store: ModelStore, source: PackageSource, blobs: Mapping[str, StoredBlob], time: datetime
    ) -> None:
        self._store = store
        self._source = source
        self._blobs = {RelativePath.parse(name): blob for name, blob in blobs.items()}
        self._time = time

    async def walk(self, directory: Path) -> tuple[RelativePath, ...]:
        return tuple(sorted(self._blobs, key=lambda name: name.text.encode()))

    async def shards(self, path: Path) -> tuple[Path, ...]:
        shard = Shard.of(path.name)
        if shard is None:
            return (path,)
        missing = [name for name in shard.names if RelativePath.parse(name) not in self._blobs]
        if missing or not shard.is_consistent:
            raise InvalidRequestError(f"incomplete shard set: {(missing or [path.name])[0]!r} is missing: send it too")
        return tuple(path.parent / name for name in shard.names)

    async def describe(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        blob = self._blobs.get(RelativePath.parse(path.relative_to(_ROOT).as_posix()))
        if blob is None:
            raise InvalidRequestError(f"no such file: {name.text!r}")
        return SourceFile(
            path=self._store.blob_file(blob.digest),
            name=name,
            digest=blob.digest,
            size=blob.size,
            mode=_MODE,
            mtime_ns=int(self._time.timestamp()) * 1_000_000_000,
        )

    async def metadata(self, files: Sequence[SourceFile], fmt: Format) -> WeightsMetadata:
        return await self._source.metadata(files, fmt)


class CreatingService:
    """Makes models. Nothing of the weights is copied: what is made shares its blobs with what it was made of."""

    def __init__(
        self,
        *,
        store: ModelStore,
        catalog: CatalogService,
        repackaging: RepackagingService,
        source: PackageSource,
        intake: BlobIntake,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._repackaging = repackaging
        self._source = source
        self._intake = intake
        self._clock = clock

    async def take(self, digest: Digest, chunks: AsyncIterator[bytes]) -> int:
        """Store a blob whose size nobody knows before; raises as :meth:`BlobIntake.take`. The caller leases it."""
        return await self._intake.take(digest, chunks)

    async def from_model(self, name: str, target: str, layers: Sequence[NewLayer]) -> Model:
        """Call the model ``name`` with ``layers`` beside its own ``target``. Raises as :meth:`RepackagingService.repackage`."""
        self._catalog.check_tag(target)
        async with AsyncExitStack() as held:
            described = await self._written(layers, held)
            return await self._repackaging.repackage(name, target, Changes(layers=described))

    async def from_blobs(
        self,
        blobs: Mapping[str, Digest],
        target: str,
        layers: Sequence[NewLayer],
        adapters: Mapping[str, Digest] | None = None,
    ) -> Model:
        """Make a model of files in the store, by their names, and call it ``target``.

        GGUF files are the weights, or the shards of them, and one with ``mmproj`` in its name the projector; safetensors
        come as the directory they were in. ``adapters`` are LoRA adapters.

        Raises:
            NotFoundError: a blob is not in the store; names it.
            InvalidRequestError, MalformedArtifactError: the files make no model.
            InvalidReferenceError: ``target`` can be no name.
            StorageFullError, StoreUnwritableError: the store cannot take it.
        """
        reference = self._catalog.check_tag(target)
        loras = {f"adapter-{number}.gguf": digest for number, digest in enumerate((adapters or {}).values(), start=1)}
        everything = {**{_name(name): digest for name, digest in blobs.items()}, **loras}
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._store.lease(everything.values()))
            stored = {name: await self._stored(name, digest) for name, digest in everything.items()}
            now = datetime.fromtimestamp(int(self._clock.time()), UTC)
            packaging = PackagingService(StoredBlobs(self._store, self._source, stored, now))
            built = await packaging.build(_request(stored, tuple(loras), now))
            described = await self._written(layers, held)
            artifact = self._repackaging.revised(built.artifact, Changes(layers=described))
            await held.enter_async_context(self._store.lease((artifact.id,)))
            added = await self._store.add(artifact)
            return await self._store.tag(added.id, reference)

    async def _stored(self, name: str, digest: Digest) -> StoredBlob:
        size = await self._intake.size(digest)
        if size is None:
            raise NotFoundError(f"file {name!r}: there is no blob {digest}: send it first")
        return StoredBlob(digest, size)

    async def _written(self, layers: Sequence[NewLayer], held: AsyncExitStack) -> tuple[Descriptor, ...]:
        """The layers' blobs in the store, leased for as long as ``held`` is."""
        time = go_time(datetime.fromtimestamp(int(self._clock.time()), UTC))
        described = []
        for layer in layers:
            content = layer.content
            annotations = file_annotations(layer.name, mode=_MODE, size=len(content), mtime=time)
            descriptor = Descriptor(
                media_type=layer.media_type.value, digest=Digest.of(content), size=len(content), annotations=annotations
            )
            await held.enter_async_context(self._store.lease((descriptor.digest,)))
            await self._store.require_space([descriptor])
            async with self._store.write_blob(descriptor) as writer:
                if not await self._store.has_blob(descriptor.digest, descriptor.size):
                    if writer.offset:
                        await writer.restart()
                    await writer.write(content)
                    await writer.commit()
            described.append(descriptor)
        return tuple(described)


class BufferedBlobIntake(BlobIntake):
    """Takes blobs into any store, holding each in memory until it is whole; not for large ones."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def size(self, digest: Digest) -> int | None:
        if not await self._store.has_blob(digest):
            return None
        return sum([len(chunk) async for chunk in self._store.read_blob(digest)])

    async def take(self, digest: Digest, chunks: AsyncIterator[bytes]) -> int:
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > _MAX_BUFFERED:
                raise InvalidRequestError(f"this store takes no blobs of more than {_MAX_BUFFERED} bytes in this way")
        descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=len(data))
        async with self._store.write_blob(descriptor) as writer:
            if not await self._store.has_blob(digest, len(data)):
                if writer.offset:
                    await writer.restart()
                await writer.write(bytes(data))
                await writer.commit()
        return len(data)


def _name(text: str) -> str:
    """A client's name for a file: below the root, whatever it says."""
    return RelativePath.parse(text.lstrip("/")).text


def _request(blobs: Mapping[str, StoredBlob], loras: tuple[str, ...], now: datetime) -> PackageRequest:
    names = [name for name in blobs if name not in loras]
    gguf = [name for name in names if weights_format(name) is Format.GGUF]
    projectors = [name for name in gguf if "mmproj" in name.lower()]
    weights = [name for name in gguf if name not in projectors]
    source: WeightsFile | ModelDirectory
    if weights and len(gguf) == len(names):
        _check_one_model(weights)
        source = WeightsFile(path=_ROOT / weights[0], expected=Format.GGUF)
    else:
        source = ModelDirectory(path=_ROOT)
        projectors = []
        if loras:
            raise InvalidRequestError("adapters go with GGUF weights alone", param="adapters")
    return PackageRequest(
        source=source,
        created=now,
        epoch=now,
        mmproj=_ROOT / projectors[0] if projectors else None,
        loras=tuple(_ROOT / name for name in loras),
    )


def _check_one_model(weights: Sequence[str]) -> None:
    shard = Shard.of(weights[0])
    if len(weights) > 1 and (shard is None or any(name not in shard.names for name in weights)):
        raise InvalidRequestError(
            f"{len(weights)} files of weights are not the shards of one model: send one, or all shards under their names",
            param="files",
        )
