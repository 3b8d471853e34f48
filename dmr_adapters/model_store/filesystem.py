"""The model store on a file system."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final, Self, TypeVar

from dmr_adapters.model_store.blobs import BLOB_MODE, BlobIngest, is_complete, read_blob, space_needed
from dmr_adapters.model_store.bundle import BundleDraft, bundle_at, discard_bundle, is_whole
from dmr_adapters.model_store.bundle_plan import BundlePlan, plan_bundle
from dmr_adapters.model_store.durability import disk_conditions, free_space, storage_full, write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import held_lease, refuse_if_leased
from dmr_adapters.model_store.lock import DigestLocks, StoreLock
from dmr_adapters.model_store.removal import begin_removal, end_removal, finish_removals
from dmr_adapters.model_store.reserve import keep_reserve, with_reserve
from dmr_adapters.model_store.snapshot import SnapshotReader, read_document
from dmr_adapters.model_store.startup import prepare, prepare_directories
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_adapters.model_store.usage import disk_usage
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_core.domain.artifact import Artifact, Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Bundle, Model
from dmr_core.domain.reference import Reference
from dmr_core.errors import DigestMismatchError, ModelNotFoundError, PreconditionError
from dmr_core.ports.model_store import BlobWriter, ModelStore

__all__ = ["FilesystemModelStore"]

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")


class FilesystemModelStore(ModelStore):
    """Keeps models in the reference runner's layout, which both may use at the same time.

    Readers see an immutable snapshot in memory. A change takes the store's lock, reads the index
    again, so that nobody else's entries are lost, replaces it, and then shows the new snapshot.
    """

    def __init__(self, root: Path, *, lock_patience: float = 30.0) -> None:
        self._layout = StoreLayout(root.absolute())
        self._lock = StoreLock(self._layout.lock_file, self._layout.root, lock_patience)
        self._ingest = BlobIngest(self._layout)
        self._index = IndexFile(self._layout)
        self._reader = SnapshotReader(self._layout)
        self._snapshot = self._reader.latest
        self._generation = 0
        # Whoever reads the index shows what was read before another may: the newest state wins.
        self._showing = asyncio.Lock()
        self._bundle_locks = DigestLocks()

    @classmethod
    async def open(cls, root: Path, *, lock_patience: float = 30.0) -> Self:
        """Open the store at ``root``, making one there if there is none; reads the index.

        ``lock_patience`` is how many seconds another process may hold the store's lock.

        Raises:
            StoreUnwritableError: the directory cannot be made or written.
            StorageFullError: no room even for an empty store.
            PreconditionError: a newer version wrote the store, or its index is damaged.
            UnavailableError: another process keeps the store locked.
        """
        store = cls(root, lock_patience=lock_patience)
        await finish_in_thread(lambda: prepare_directories(store._layout))
        await store._exclusively(store._start)
        return store

    @property
    def generation(self) -> int:
        return self._generation

    def models(self) -> tuple[Model, ...]:
        return self._snapshot.models

    def by_id(self, model_id: Digest) -> Model | None:
        return self._snapshot.by_id.get(model_id)

    def by_tag(self, canonical: str) -> Model | None:
        return self._snapshot.by_tag.get(canonical)

    async def refresh(self) -> None:
        async with self._showing:
            await finish_in_thread(self._show_if_changed)

    async def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        path = self._layout.blob(digest)
        return await finish_in_thread(path.is_file if size is None else lambda: is_complete(path, size))

    def write_blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[BlobWriter]:
        return self._ingest.writer(descriptor)

    def blob_file(self, digest: Digest) -> Path:
        return self._layout.blob(digest)

    def lease(self, digests: Iterable[Digest]) -> AbstractAsyncContextManager[None]:
        return held_lease(self._layout, self._lock, digests)

    async def require_space(self, blobs: Iterable[Descriptor]) -> None:
        needed = await finish_in_thread(lambda: space_needed(self._layout, blobs))
        free = await finish_in_thread(lambda: free_space(self._layout.root))
        if free is not None and free < needed:
            raise storage_full(self._layout.root, needed)

    def read_blob(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        return read_blob(self._layout.blob(digest), digest, offset)

    async def read_manifest(self, model_id: Digest) -> bytes | None:
        if model_id not in self._snapshot.by_id:
            return None
        try:
            return await finish_in_thread(lambda: read_document(self._layout.manifest(model_id)))
        except FileNotFoundError:
            return None  # another process is removing the model

    async def add(self, artifact: Artifact) -> Model:
        return await self._exclusively(lambda: self._add(artifact))

    async def tag(self, model_id: Digest, reference: Reference) -> Model:
        return await self._exclusively(lambda: self._tag(model_id, reference.canonical))

    async def untag(self, canonical: str) -> None:
        await self._exclusively(lambda: with_reserve(self._layout, lambda: self._untag(canonical)))

    async def remove(self, model_id: Digest, *, only_tagged: Collection[str] | None = None) -> bool:
        async with self._lock.hold():
            async with self._showing:
                index = await finish_in_thread(self._read)
                model = self.by_id(model_id)
                if only_tagged is not None and (model is None or set(model.tags) != set(only_tagged)):
                    return False
                garbage = await finish_in_thread(
                    lambda: with_reserve(self._layout, lambda: self._forget(index, model_id))
                )
            if garbage is not None:
                await finish_in_thread(lambda: self._delete(model_id, garbage))
            return True

    async def bundle(self, model_id: Digest) -> Bundle:
        async with self._bundle_locks.of(model_id):
            model = self.by_id(model_id)
            if model is None:
                raise ModelNotFoundError(str(model_id))
            root = self._layout.bundle(model_id)
            plan = plan_bundle(model.manifest, model.config)
            if not await finish_in_thread(lambda: is_whole(root, plan)):
                await self._make_bundle(model, plan)
            return bundle_at(root, plan, model)

    async def disk_usage(self) -> int:
        return await finish_in_thread(lambda: disk_usage(self._layout.root))

    async def _exclusively(self, step: Callable[[], _T]) -> _T:
        """Run ``step`` in a thread while no one else, in whatever process, changes the index."""
        async with self._lock.hold(), self._showing:
            return await finish_in_thread(step)

    async def _make_bundle(self, model: Model, plan: BundlePlan) -> None:
        draft = BundleDraft(self._layout, model, plan)
        try:
            # Not under the store's lock: where files have to be copied this takes its time.
            await finish_in_thread(draft.build)
            await self._exclusively(lambda: self._publish_bundle(draft, model.id))
        finally:
            await finish_in_thread(draft.close)

    # What follows runs in threads, under the locks that its callers took.

    def _start(self) -> None:
        prepare(self._layout)
        index = self._read()
        finish_removals(self._layout, index)
        self._replace(index, index.with_hub_names())

    def _read(self) -> Index:
        """The index as it is on the disk, shown to readers too."""
        with disk_conditions(self._layout.root):
            index = self._index.read()
        self._show(index)
        return index

    def _replace(self, before: Index, after: Index) -> None:
        """Make a change durable, then show it."""
        if after is not before:
            with disk_conditions(self._layout.root):
                self._index.write(after)
            self._show(after)

    def _show(self, index: Index) -> None:
        snapshot = self._reader.read(index)
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._generation += 1

    def _show_if_changed(self) -> None:
        try:
            index = self._index.read_if_changed()
        except (OSError, PreconditionError) as exc:
            _log.warning("keeping the models known so far: %s", exc)
            return
        if index is not None:
            self._show(index)

    def _add(self, artifact: Artifact) -> Model:
        manifest = artifact.manifest
        self._check(artifact)
        written: list[Path] = []
        try:
            with disk_conditions(self._layout.root):
                self._write(self._layout.blob(manifest.config.digest), artifact.config_bytes, BLOB_MODE, written)
                self._write(self._layout.manifest(artifact.id), artifact.manifest_bytes, 0o644, written)
            index = self._read()
            self._replace(index, index.with_model(artifact.id, tuple(blob.digest for blob in manifest.blobs)))
        except BaseException:
            for path in written:
                with suppress(OSError):
                    path.unlink()
            raise
        return self._snapshot.by_id[artifact.id]

    def _check(self, artifact: Artifact) -> None:
        """Refuse what would be in the index and yet unusable."""
        decode_manifest(artifact.manifest_bytes)
        decode_config(artifact.config_bytes)
        expected, actual = artifact.manifest.config.digest, Digest.of(artifact.config_bytes)
        if actual != expected:
            raise DigestMismatchError(str(expected), str(actual))
        for layer in artifact.manifest.layers:
            path = self._layout.blob(layer.digest)
            if not is_complete(path, layer.size):
                state = "has another size than the manifest says" if path.exists() else "is missing"
                raise PreconditionError(
                    f"cannot add model {artifact.id}: layer {layer.digest} {state};"
                    " `dmr system check --repair` tells more"
                )

    def _write(self, path: Path, data: bytes, mode: int, written: list[Path]) -> None:
        """Write a document unless it is there already, byte for byte."""
        if is_complete(path, len(data)) and path.read_bytes() == data:
            return
        write_durably(path, data, temporary=self._layout.temporary, mode=mode)
        written.append(path)

    def _tag(self, model_id: Digest, canonical: str) -> Model:
        index = self._read()
        if model_id not in self._snapshot.by_id:
            raise ModelNotFoundError(str(model_id))
        self._replace(index, index.with_tag(model_id, canonical))
        return self._snapshot.by_id[model_id]

    def _untag(self, canonical: str) -> None:
        index = self._read()
        self._replace(index, index.without_tag(canonical))

    def _forget(self, index: Index, model_id: Digest) -> frozenset[Digest] | None:
        """Take a model out of the index; which blobs nobody needs any more, ``None`` if there was no such model."""
        if model_id not in index:
            return None
        own = index.files_of(model_id)
        model = self.by_id(model_id)
        leased = refuse_if_leased(self._layout, model_id, model.name if model is not None else str(model_id))
        if model is not None:
            own = own.union(blob.digest for blob in model.manifest.blobs)
        needed = index.needed_without(model_id, own) | leased
        with disk_conditions(self._layout.root):
            begin_removal(self._layout, model_id)
        self._replace(index, index.without_model(model_id))
        # What manifests say counts as well as what the entries list, should the two ever disagree.
        named = (blob.digest for other in self.models() for blob in other.manifest.blobs if blob.digest in own)
        return own - needed.union(named)

    def _delete(self, model_id: Digest, garbage: frozenset[Digest]) -> None:
        """Delete the files of a model that is gone. One that cannot be deleted takes room, nothing more."""
        try:
            self._layout.manifest(model_id).unlink(missing_ok=True)
            discard_bundle(self._layout, model_id)
            for digest in garbage:
                self._layout.blob(digest).unlink(missing_ok=True)
            end_removal(self._layout, model_id)
            keep_reserve(self._layout)
        except OSError as exc:
            _log.warning("some files of model %s could not be deleted: %s", model_id.short, exc)

    def _publish_bundle(self, draft: BundleDraft, model_id: Digest) -> None:
        if model_id not in self._read():
            raise ModelNotFoundError(str(model_id))
        draft.publish()
