"""Collecting garbage: everything that has the name of something of the store's, and that nobody needs."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.bundle import discard_bundle
from dmr_adapters.model_store.durability import disk_conditions
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import leased_digests
from dmr_adapters.model_store.maintenance.census import Found, files_below, take_census
from dmr_adapters.model_store.maintenance.leftovers import delete_abandoned, delete_partial, is_abandoned
from dmr_adapters.model_store.maintenance.marks import Marks, listed_files, mark, quarantined_needs, unlisted
from dmr_adapters.model_store.maintenance.quarantine import Quarantine, damaged_blob
from dmr_adapters.model_store.removal import finish_removals
from dmr_adapters.model_store.reserve import keep_reserve, with_reserve
from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import Collected, Collection, GarbageKind

__all__ = ["collect"]

_SECTOR: Final = 512  # what st_blocks counts
_ACTIVE: Final = 600.0
_RECENT: Final = 24 * 3600.0
_STRAY: Final = 3600.0


@attrs.frozen
class _Item:
    """Something to delete. ``delete`` says whether it is gone; ``files`` are the names that go with it."""

    kind: GarbageKind
    files: tuple[Found, ...]
    delete: Callable[[], bool]
    is_free: Callable[[], bool] = lambda: True
    allocated: bool = False


def collect(layout: StoreLayout, *, partials_older_than: float | None, everything: bool, dry_run: bool) -> Collection:
    """Find what nobody needs, and delete it unless ``dry_run``. The store's lock is held where anything is deleted.

    Raises:
        PreconditionError: the index is damaged.
        StoreUnwritableError: something could not be looked at, so nothing was deleted.
        StorageFullError: no room for the index that is left.
    """

    def attempt() -> Collection:
        with disk_conditions(layout.root):
            return _collect(layout, partials_older_than=partials_older_than, everything=everything, dry_run=dry_run)

    return attempt() if dry_run else with_reserve(layout, attempt)


def _collect(layout: StoreLayout, *, partials_older_than: float | None, everything: bool, dry_run: bool) -> Collection:
    index_file = IndexFile(layout)
    index = index_file.read()
    if not dry_run:
        finish_removals(layout, index)
    leased = leased_digests(layout, sweep=not dry_run)
    sweep = _Sweep(layout, index, leased, partials_older_than=partials_older_than, everything=everything)
    items = list(sweep.items())
    models = sweep.dropped
    failed: list[str] = []
    if dry_run:
        items, in_use = _free(items)
    else:
        if sweep.index is not index:
            index_file.write(sweep.index)
        items, failed, in_use = _delete(items)
        keep_reserve(layout)
    return Collection(
        dry_run=dry_run,
        collected=_summed(items, len(models)),
        models=models,
        kept=sweep.kept + in_use,
        failed=tuple(failed),
    )


class _Sweep:
    """One collection: what stays, and so what goes."""

    def __init__(
        self,
        layout: StoreLayout,
        index: Index,
        leased: frozenset[Digest],
        *,
        partials_older_than: float | None,
        everything: bool,
    ) -> None:
        self._layout = layout
        self._leased = leased
        self._older_than = partials_older_than
        self._everything = everything
        self._now = time.time()
        self._census = take_census(layout)
        self.kept = 0
        untagged = _untagged(index) if everything else ()
        # One whose blobs are leased may be in the middle of a pull, which adds a model before it tags it.
        named = listed_files(index)
        gone = [model_id for model_id in untagged if not leased & named[str(model_id)]]
        self.kept += len(untagged) - len(gone)
        self.index = _without(index, gone)
        lost = unlisted(layout, index, self._census)
        # What would stay in any case, so that the rest is what went with its model.
        self._base = self._marks(index, {*quarantined_needs(self._census), *lost})
        self._marked = self._marks(self.index, ()) if everything else self._base
        lost_too = [model_id for model_id in lost if model_id not in self._marked.models]
        self.dropped: tuple[Digest, ...] = (*gone, *lost_too) if everything else ()

    def items(self) -> Iterable[_Item]:
        """What is to be deleted: manifests first, as a manifest whose blobs are gone is of no use to anybody."""
        census = self._census
        for model_id in sorted(census.manifests.keys() - self._marked.models):
            kind = GarbageKind.MODEL if model_id in self._base.models else GarbageKind.MANIFEST
            yield self._file(kind, census.manifests[model_id])
        for model_id in sorted(census.bundles.keys() - self._marked.models):
            kind = GarbageKind.MODEL if model_id in self._base.models else GarbageKind.BUNDLE
            yield self._bundle(kind, model_id)
        reference_pulls = self._reference_pulls()
        for digest in sorted(census.blobs.keys() - self._marked.blobs):
            found = census.blobs[digest]
            if reference_pulls and self._now - found.status.st_ctime < _RECENT:
                self.kept += 1
                continue
            kind = GarbageKind.MODEL if digest in self._base.blobs else GarbageKind.BLOB
            yield self._file(kind, found)
        yield from self._partials()
        for found in census.temporary:
            yield self._temporary(found)
        for found in census.strays:
            if self._now - found.status.st_mtime > _STRAY:
                yield self._file(GarbageKind.TEMPORARY, found)
        settled = self._settled_entries()
        for found in census.quarantine:
            if self._everything or found.path in settled or damaged_blob(found.path) in census.blobs:
                yield self._file(GarbageKind.QUARANTINE, found)

    def _marks(self, index: Index, also: Iterable[Digest]) -> Marks:
        return mark(self._layout, index, self._census, leased=self._leased, also=also)

    def _reference_pulls(self) -> bool:
        """Whether the reference runner is pulling: it takes no leases, and its blobs come long before their model."""
        partials = self._census.reference_partials.values()
        return any(self._now - found.status.st_mtime < _ACTIVE for found in partials)

    def _settled_entries(self) -> frozenset[Path]:
        """Entries that were set aside, and whose model is back with every tag somewhere."""
        listed = list(self.index.entries())
        ids, tags = {entry.id for entry in listed}, {tag for entry in listed for tag in entry.tags}
        settled = set()
        for path, record in Quarantine(self._layout).entries():
            entry = next(Index(records=(record,)).entries(), None)
            if entry is not None and entry.id in ids and tags.issuperset(entry.tags):
                settled.add(path)
        return frozenset(settled)

    def _partials(self) -> Iterable[_Item]:
        if self._older_than is None:
            return
        census, layout = self._census, self._layout
        for digest in sorted(census.partials.keys() | census.journals.keys()):
            files = tuple(found for found in (census.partials.get(digest), census.journals.get(digest)) if found)
            yield from self._partial(digest, files, layout.partial(digest), layout.journal(digest))
        for digest, found in sorted(census.reference_partials.items()):
            yield from self._partial(digest, (found,), found.path, None)

    def _partial(
        self, digest: Digest, files: tuple[Found, ...], partial: Path, journal: Path | None
    ) -> Iterable[_Item]:
        youngest = max(found.status.st_mtime for found in files)
        if self._older_than is None or self._now - youngest < self._older_than:
            return
        if digest in self._leased:
            self.kept += 1
            return
        yield _Item(
            GarbageKind.PARTIAL,
            files,
            lambda: delete_partial(partial, journal),
            lambda: is_abandoned(partial),
            allocated=True,
        )

    def _file(self, kind: GarbageKind, found: Found) -> _Item:
        return _Item(kind, (found,), lambda: _unlinked(found.path))

    def _bundle(self, kind: GarbageKind, model_id: Digest) -> _Item:
        def delete() -> bool:
            discard_bundle(self._layout, model_id)
            return True

        return _Item(kind, tuple(files_below(self._layout.bundle(model_id))), delete)

    def _temporary(self, found: Found) -> _Item:
        files = tuple(files_below(found.path)) or (found,)
        return _Item(
            GarbageKind.TEMPORARY, files, lambda: delete_abandoned(found.path), lambda: is_abandoned(found.path)
        )


def _without(index: Index, models: list[Digest]) -> Index:
    dropped = frozenset(map(str, models))
    kept = (record for record in index.records if not isinstance(record, dict) or str(record.get("id")) not in dropped)
    return attrs.evolve(index, records=tuple(kept)) if dropped else index


def _untagged(index: Index) -> tuple[Digest, ...]:
    """Models whose entries name no tag at all, readable or not."""
    tagged = {
        record.get("id")
        for record in index.records
        if isinstance(record, dict) and record.get("tags") not in (None, [])
    }
    return tuple(entry.id for entry in index.entries() if not entry.tags and str(entry.id) not in tagged)


def _unlinked(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True


def _delete(items: list[_Item]) -> tuple[list[_Item], list[str], int]:
    """Delete; what is gone, what could not be deleted and why, and how much somebody had locked."""
    gone, failed, in_use = [], [], 0
    for item in items:
        try:
            if item.delete():
                gone.append(item)
            else:
                in_use += 1
        except OSError as exc:
            failed.append(f"{item.files[0].path if item.files else item.kind}: {exc.strerror or exc}")
    return gone, failed, in_use


def _free(items: list[_Item]) -> tuple[list[_Item], int]:
    free = [item for item in items if item.is_free()]
    return free, len(items) - len(free)


def _summed(items: list[_Item], models: int) -> tuple[Collected, ...]:
    """Counts and bytes by kind. A file is given back with the last of its names only."""
    names: Counter[tuple[int, int]] = Counter()
    counts: Counter[GarbageKind] = Counter()
    sizes: defaultdict[GarbageKind, int] = defaultdict(int)
    for item in items:
        counts[item.kind] += 1
        for found in item.files:
            status = found.status
            identity = status.st_dev, status.st_ino
            names[identity] += 1
            if names[identity] == status.st_nlink:
                sizes[item.kind] += status.st_blocks * _SECTOR if item.allocated else status.st_size
    if models or counts[GarbageKind.MODEL]:
        counts[GarbageKind.MODEL] = models
    return tuple(
        Collected(kind=kind, count=counts[kind], size=sizes[kind])
        for kind in GarbageKind
        if counts[kind] or sizes[kind]
    )
