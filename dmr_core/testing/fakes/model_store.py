"""A model store in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.artifact import Artifact, Descriptor, Format, LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Bundle, Model
from dmr_core.domain.reference import Reference
from dmr_core.domain.spans import Span, SpanSet
from dmr_core.errors import (
    DigestMismatchError,
    MalformedArtifactError,
    ModelInUseError,
    ModelNotFoundError,
    NotFoundError,
    PreconditionError,
    StorageFullError,
)
from dmr_core.ports.model_store import BlobWriter, ModelStore, PartWriter
from dmr_core.ports.registry import ByteSource

__all__ = ["InMemoryModelStore"]

_BLOCK: Final = 64 * 1024
_FIRST: Final = {Format.GGUF: "model.gguf", Format.SAFETENSORS: "model.safetensors", Format.DDUF: "model.dduf"}


class InMemoryModelStore(ModelStore):
    """Keeps everything in dictionaries.

    Features:
        - the whole contract of the port, partial blobs and turns of writers included;
        - ``capacity`` bytes of room for blobs, then :class:`StorageFullError`;
        - ``blobs`` and ``partials`` to look at, and to damage; ``here`` says which bytes of a partial are real;
        - ``leased`` lists the digests that are kept from garbage collection;
        - bundles are paths below ``root`` that nobody makes: one weights file, named by its format.
    """

    def __init__(self, root: Path = Path("/in-memory"), *, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.blobs: dict[Digest, bytes] = {}
        self.partials: dict[Digest, bytearray] = {}
        self.here: dict[Digest, SpanSet] = {}
        self.leased: list[Digest] = []
        self._root = root
        self._models: dict[Digest, Model] = {}
        self._manifests: dict[Digest, bytes] = {}
        self._tags: dict[str, Digest] = {}
        self._generation = 0
        self._turns: dict[Digest, asyncio.Lock] = {}

    @property
    def generation(self) -> int:
        return self._generation

    def models(self) -> tuple[Model, ...]:
        return tuple(self._models.values())

    def by_id(self, model_id: Digest) -> Model | None:
        return self._models.get(model_id)

    def by_tag(self, canonical: str) -> Model | None:
        model_id = self._tags.get(canonical)
        return self._models[model_id] if model_id is not None else None

    async def refresh(self) -> None:
        """Nobody else changes this store."""

    async def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        return digest in self.blobs and size in {None, len(self.blobs[digest])}

    def blob_file(self, digest: Digest) -> Path:
        return self._root / "blobs" / digest.hex

    @asynccontextmanager
    async def lease(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
        held = list(digests)
        self.leased.extend(held)
        try:
            yield
        finally:
            for digest in held:
                self.leased.remove(digest)

    async def require_space(self, blobs: Iterable[Descriptor]) -> None:
        missing = [blob for blob in blobs if blob.digest not in self.blobs]
        needed = sum(blob.size - self.here.get(blob.digest, SpanSet()).count for blob in missing)
        room = self._room()
        if room is not None and room < needed:
            raise StorageFullError("the model store is full", needs=needed, has=room)

    def write_blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[BlobWriter]:
        return self._writer(descriptor)

    async def read_blob(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        if digest not in self.blobs:
            raise NotFoundError(f"blob {str(digest)!r} not found in the model store")
        data = self.blobs[digest]
        for start in range(offset, len(data), _BLOCK):
            yield data[start : start + _BLOCK]

    async def read_manifest(self, model_id: Digest) -> bytes | None:
        return self._manifests.get(model_id)

    async def add(self, artifact: Artifact) -> Model:
        manifest = artifact.manifest
        if Digest.of(artifact.config_bytes) != manifest.config.digest:
            raise DigestMismatchError(str(manifest.config.digest), str(Digest.of(artifact.config_bytes)))
        for layer in manifest.layers:
            if len(self.blobs.get(layer.digest, b"")) != layer.size:
                raise PreconditionError(f"cannot add model {artifact.id}: layer {layer.digest} is missing")
        if artifact.id not in self._models:
            self.blobs[manifest.config.digest] = artifact.config_bytes
            self._manifests[artifact.id] = artifact.manifest_bytes
            self._show(
                Model(
                    id=artifact.id,
                    tags=(),
                    manifest=manifest,
                    config=artifact.config,
                    manifest_size=len(artifact.manifest_bytes),
                )
            )
        return self._models[artifact.id]

    async def tag(self, model_id: Digest, reference: Reference) -> Model:
        model, canonical = self._models.get(model_id), reference.canonical
        if model is None:
            raise ModelNotFoundError(str(model_id))
        if canonical in model.tags:
            return model
        await self.untag(canonical)
        self._tags[canonical] = model_id
        return self._show(attrs.evolve(model, tags=(*model.tags, canonical)))

    async def untag(self, canonical: str) -> None:
        model_id = self._tags.pop(canonical, None)
        if model_id is not None:
            model = self._models[model_id]
            self._show(attrs.evolve(model, tags=tuple(tag for tag in model.tags if tag != canonical)))

    async def remove(self, model_id: Digest, *, only_tagged: Collection[str] | None = None) -> bool:
        if model_id not in self._models:
            return only_tagged is None
        if only_tagged is not None and set(self._models[model_id].tags) != set(only_tagged):
            return False
        if model_id in self.leased:
            raise ModelInUseError(f"model {self._models[model_id].name!r} is being used")
        model = self._models.pop(model_id)
        del self._manifests[model_id]
        for tag in model.tags:
            del self._tags[tag]
        needed = {blob.digest for other in self._models.values() for blob in other.manifest.blobs}
        for blob in model.manifest.blobs:
            if blob.digest not in needed and blob.digest not in self.leased:
                self.blobs.pop(blob.digest, None)
        self._generation += 1
        return True

    async def bundle(self, model_id: Digest) -> Bundle:
        model = self._models.get(model_id)
        if model is None:
            raise ModelNotFoundError(str(model_id))
        weights = model.manifest.weights_format()
        if weights is None:
            raise MalformedArtifactError("no supported model weights found (expected GGUF, safetensors, or DDUF)")
        root = self._root / model_id.hex
        kinds = {layer.media_type for layer in model.manifest.layers}
        loras = sum(layer.media_type == LayerType.LORA for layer in model.manifest.layers)
        first = root / "model" / _FIRST[weights]
        return Bundle(
            root=root,
            gguf=first if weights is Format.GGUF else None,
            safetensors=first if weights is Format.SAFETENSORS else None,
            dduf=first if weights is Format.DDUF else None,
            mmproj=root / "model" / "model.mmproj" if LayerType.MMPROJ in kinds else None,
            chat_template=root / "model" / "template.jinja" if LayerType.CHAT_TEMPLATE in kinds else None,
            loras=tuple(root / "model" / "lora" / f"{number:05d}.gguf" for number in range(1, loras + 1)),
            context_size=model.config.context_size,
        )

    async def disk_usage(self) -> int:
        return self._used()

    @asynccontextmanager
    async def _writer(self, descriptor: Descriptor) -> AsyncIterator[BlobWriter]:
        async with self._turns.setdefault(descriptor.digest, asyncio.Lock()):
            try:
                yield _InMemoryBlobWriter(self, descriptor)
            finally:
                if len(self.partials.get(descriptor.digest, b"-")) == 0:
                    del self.partials[descriptor.digest]

    def _show(self, model: Model) -> Model:
        self._models[model.id] = model
        self._generation += 1
        return model

    def _used(self) -> int:
        return sum(map(len, self.blobs.values())) + sum(map(len, self.partials.values()))

    def _room(self) -> int | None:
        return None if self.capacity is None else self.capacity - self._used()


class _InMemoryBlobWriter(BlobWriter):
    def __init__(self, store: InMemoryModelStore, descriptor: Descriptor) -> None:
        self._store = store
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._counted: int | None = None
        here = store.blobs.get(descriptor.digest)
        if here is not None and len(here) == descriptor.size:
            self._counted = descriptor.size
            self._resumed = descriptor.size
            return
        partial = store.partials.setdefault(descriptor.digest, bytearray())
        whole = SpanSet.of([Span(0, len(partial))] if partial else [])
        spans = store.here.setdefault(descriptor.digest, whole)
        if not partial:
            spans.clear()
        elif not len(spans):
            spans.add(0, len(partial))
        self._resumed = spans.count

    @property
    def offset(self) -> int:
        return self._here.prefix if self._counted is None else self._counted

    @property
    def resumed(self) -> int:
        return self._resumed

    @property
    def missing(self) -> tuple[Span, ...]:
        return self._here.missing(self._size) if self._counted is None else ()

    @asynccontextmanager
    async def part(self, start: int) -> AsyncIterator[PartWriter]:
        yield _InMemoryPartWriter(self, start)

    async def restart(self) -> None:
        if self._counted is None:
            self._partial.clear()
            self._here.clear()
        else:
            self._counted = 0

    async def write(self, chunk: bytes) -> None:
        if self._counted is not None:
            if self._counted + len(chunk) > self._size:
                self.refuse(f"more than the {self._size} bytes promised")
            self._counted += len(chunk)
            return
        self.put(self.offset, chunk)

    def put(self, start: int, chunk: bytes) -> None:
        if start + len(chunk) > self._size:
            self.refuse(f"more than the {self._size} bytes promised")
        if self._counted is not None:
            return
        end = start + len(chunk)
        room, grown = self._store._room(), max(0, end - len(self._partial))  # noqa: SLF001 - one fake in several classes
        if room is not None and room < grown:
            raise StorageFullError("the model store is full", needs=self._size - self.offset, has=room)
        self._partial.extend(bytes(grown))
        self._partial[start:end] = chunk
        self._here.add(start, end)

    async def commit(self) -> None:
        if self._counted is not None:
            return
        if self._here.prefix != self._size:
            self.refuse(f"{self._here.count} of {self._size} bytes")
        actual = hashlib.sha256(self._partial).hexdigest()
        if actual != self._digest.hex:
            self.refuse(f"sha256:{actual}")
        self._store.blobs[self._digest] = bytes(self._store.partials.pop(self._digest))
        del self._store.here[self._digest]
        self._counted = self._size

    @property
    def _partial(self) -> bytearray:
        return self._store.partials[self._digest]

    @property
    def _here(self) -> SpanSet:
        return self._store.here[self._digest]

    def refuse(self, actual: str) -> None:
        if self._counted is None:
            self._partial.clear()
            self._here.clear()
        raise DigestMismatchError(str(self._digest), actual)


class _InMemoryPartWriter(PartWriter):
    def __init__(self, blob: _InMemoryBlobWriter, start: int) -> None:
        self._blob = blob
        self._position = start

    @property
    def position(self) -> int:
        return self._position

    async def write(self, chunk: bytes) -> None:
        self._blob.put(self._position, chunk)
        self._position += len(chunk)

    async def receive(self, source: ByteSource, count: int, received: Callable[[int], None]) -> None:
        buffer = bytearray(_BLOCK)
        while count:
            view = memoryview(buffer)[: min(count, _BLOCK)]
            got = await asyncio.to_thread(source.read_into, view)
            await self.write(bytes(view[:got]))
            received(got)
            count -= got
