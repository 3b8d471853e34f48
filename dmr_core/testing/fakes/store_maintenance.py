"""Looking after a model store in memory."""

from __future__ import annotations

import asyncio
import hashlib

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.store_report import (
    CheckProgress,
    CheckReport,
    Collected,
    Collection,
    Finding,
    FindingKind,
    GarbageKind,
    ModelUsage,
    StoreUsage,
)
from dmr_core.errors import ModelInUseError
from dmr_core.ports.store_maintenance import STALE, CheckWatcher, StoreMaintenance
from dmr_core.testing.fakes.model_store import InMemoryModelStore

__all__ = ["InMemoryStoreMaintenance"]


class InMemoryStoreMaintenance(StoreMaintenance):
    """Works on an :class:`InMemoryModelStore`.

    Features:
        - collects blobs no model needs, partials and untagged models, leases honoured; ``partial_age`` is how old every partial is;
        - finds blobs that are damaged or missing, and sets them aside (``quarantine``) with the models that need them;
        - ``gate``, while it is not set, keeps a check from going on.
    """

    def __init__(self, store: InMemoryModelStore) -> None:
        self.partial_age = 0.0
        self.quarantine: dict[Digest, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self._store = store

    async def collect(
        self, *, partials_older_than: float | None = STALE, everything: bool = False, dry_run: bool = False
    ) -> Collection:
        store = self._store
        models = [model for model in store.models() if everything and not model.tags and model.id not in store.leased]
        kept = [model for model in store.models() if model not in models]
        own = _needed(models)
        garbage = store.blobs.keys() - _needed(kept) - set(store.leased)
        stale = partials_older_than is not None and self.partial_age >= partials_older_than
        partials = [digest for digest in store.partials if stale and digest not in store.leased]
        collected = (
            _entry(GarbageKind.MODEL, len(models), [store.blobs[digest] for digest in garbage & own]),
            _entry(GarbageKind.BLOB, len(garbage - own), [store.blobs[digest] for digest in garbage - own]),
            _entry(GarbageKind.PARTIAL, len(partials), [store.partials[digest] for digest in partials]),
            _entry(GarbageKind.QUARANTINE, len(self.quarantine) * everything, list(self.quarantine.values())),
        )
        if not dry_run:
            for model in models:
                await store.remove(model.id)
            for digest in garbage:
                store.blobs.pop(digest, None)
            for digest in partials:
                del store.partials[digest]
            if everything:
                self.quarantine.clear()
        return Collection(
            dry_run=dry_run,
            collected=tuple(entry for entry in collected if entry.count),
            models=tuple(model.id for model in models),
        )

    async def check(
        self, *, repair: bool = False, deep: bool = True, progress: CheckWatcher | None = None
    ) -> CheckReport:
        store, findings, total = self._store, [], sum(map(len, self._store.blobs.values()))
        if progress is not None:
            progress(CheckProgress(done=0, total=total))
        await self.gate.wait()
        models = len(store.models())
        blobs = dict(store.blobs)
        for model in store.models():
            for blob in model.manifest.blobs:
                data = blobs.get(blob.digest)
                kind = _fault(data, blob.digest, blob.size, deep=deep)
                if kind is None:
                    continue
                finding = Finding(kind=kind, path=blob.digest.hex, problem=kind.value, models=(model.name,))
                if repair and model.id not in store.leased:
                    finding = attrs.evolve(finding, repaired="set aside")
                    await self._set_aside(model, blob.digest)
                findings.append(finding)
        if progress is not None:
            progress(CheckProgress(done=total, total=total))
        return CheckReport(
            findings=tuple(findings), models=models, blobs=len(blobs), hashed=total if deep else 0, deep=deep
        )

    async def clear(self) -> None:
        store = self._store
        if store.leased:
            raise ModelInUseError("models are being used")
        for model in store.models():
            await store.remove(model.id)
        store.blobs.clear()
        store.partials.clear()
        self.quarantine.clear()

    async def usage(self) -> StoreUsage:
        store = self._store
        usages = []
        for model in store.models():
            needed = _needed([other for other in store.models() if other is not model])
            sizes = {blob.digest: len(store.blobs.get(blob.digest, b"")) for blob in model.manifest.blobs}
            shared = sum(size for digest, size in sizes.items() if digest in needed)
            unique = sum(sizes.values()) - shared
            usages.append(ModelUsage(id=model.id, tags=model.tags, unique=unique, shared=shared))
        loose = store.blobs.keys() - _needed(list(store.models()))
        return StoreUsage(
            total=await store.disk_usage(),
            models=tuple(usages),
            partials=sum(map(len, store.partials.values())),
            unreferenced=sum(len(store.blobs[digest]) for digest in loose),
            reclaimable=(await self.collect(partials_older_than=0.0, everything=True, dry_run=True)).size,
        )

    async def _set_aside(self, model: Model, digest: Digest) -> None:
        """Take a model out of the store, and leave everything it has but the damaged blob."""
        store = self._store
        kept = dict(store.blobs)
        await store.remove(model.id)
        store.blobs.update(kept)
        if digest in store.blobs:
            self.quarantine[digest] = store.blobs.pop(digest)


def _needed(models: list[Model]) -> set[Digest]:
    return {blob.digest for model in models for blob in model.manifest.blobs}


def _entry(kind: GarbageKind, count: int, contents: list[bytes] | list[bytearray]) -> Collected:
    return Collected(kind=kind, count=count, size=sum(map(len, contents)) if count else 0)


def _fault(data: bytes | None, digest: Digest, size: int, *, deep: bool) -> FindingKind | None:
    if data is None:
        return FindingKind.BLOB_MISSING
    if len(data) != size:
        return FindingKind.BLOB_SIZE
    if deep and hashlib.sha256(data).hexdigest() != digest.hex:
        return FindingKind.BLOB_DAMAGED
    return None
