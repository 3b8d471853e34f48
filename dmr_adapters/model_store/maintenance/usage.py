"""Where the bytes of the store are: by model, and by what they are for. A file with several names counts once."""

from __future__ import annotations

import logging
import stat
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.durability import disk_conditions
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.maintenance.census import Census, files_below, take_census
from dmr_adapters.model_store.maintenance.collect import collect
from dmr_adapters.model_store.maintenance.marks import digests_in, listed_files
from dmr_adapters.model_store.snapshot import read_document
from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import ModelUsage, StoreUsage
from dmr_core.errors import PreconditionError

__all__ = ["measure"]

_log: Final = logging.getLogger(__name__)
_SECTOR: Final = 512  # what st_blocks counts
_Inode = tuple[int, int]


def measure(layout: StoreLayout) -> StoreUsage:
    """Add it all up. Nothing is changed, and what changes meanwhile is counted as it was or as it is.

    Raises:
        StoreUnwritableError: something cannot be looked at.
    """
    with disk_conditions(layout.root):
        return _measured(layout)


def _measured(layout: StoreLayout) -> StoreUsage:
    try:
        index = IndexFile(layout).read()
        reclaimable = collect(layout, partials_older_than=0.0, everything=True, dry_run=True).size
    except PreconditionError as exc:
        _log.warning("the usage of the store is told without its models: %s", exc.message)
        index, reclaimable = Index(), 0
    return _Measuring(layout, index).result(reclaimable)


class _Measuring:
    """One look at the store."""

    def __init__(self, layout: StoreLayout, index: Index) -> None:
        self._layout = layout
        self._census: Census = take_census(layout)
        self._sizes: dict[_Inode, int] = {}
        self._by_path: dict[Path, _Inode] = {}
        partials = {
            found.path for found in (*self._census.partials.values(), *self._census.reference_partials.values())
        }
        for found in files_below(layout.root):
            status = found.status
            if stat.S_ISREG(status.st_mode):
                inode = status.st_dev, status.st_ino
                self._by_path[found.path] = inode
                # A partial has its room before it has its bytes, and gaps where it has none.
                self._sizes[inode] = status.st_blocks * _SECTOR if found.path in partials else status.st_size
        named = listed_files(index)
        self._models = [
            (entry.id, entry.tags, self._inodes_of(entry.id, named[str(entry.id)])) for entry in index.entries()
        ]

    def result(self, reclaimable: int) -> StoreUsage:
        """What was seen."""
        users = Counter(inode for _, _, inodes in self._models for inode in inodes)
        models = []
        for model_id, tags, inodes in self._models:
            unique = sum(self._sizes[inode] for inode in inodes if users[inode] == 1)
            shared = sum(self._sizes[inode] for inode in inodes if users[inode] > 1)
            models.append(ModelUsage(id=model_id, tags=tags, unique=unique, shared=shared))
        blobs = self._inodes_below(self._layout.blobs)
        quarantine = self._inodes_below(self._layout.quarantine) - users.keys()
        bundles = self._inodes_below(self._layout.bundles) - blobs
        ours = (self._census.partials, self._census.journals, self._census.reference_partials)
        partials = {
            self._by_path[found.path] for group in ours for found in group.values() if found.path in self._by_path
        }
        documents = self._inodes_below(self._layout.manifests)
        unreferenced = (blobs | documents) - users.keys() - partials
        return StoreUsage(
            total=sum(self._sizes.values()),
            models=tuple(models),
            bundles=self._sum(bundles),
            partials=self._sum(partials),
            quarantine=self._sum(quarantine),
            unreferenced=self._sum(unreferenced),
            reclaimable=reclaimable,
        )

    def _inodes_of(self, model_id: Digest, digests: frozenset[Digest]) -> frozenset[_Inode]:
        manifest = self._layout.manifest(model_id)
        with suppress(OSError):
            digests |= digests_in(read_document(manifest))
        paths = [manifest, *(self._layout.blob(digest) for digest in digests)]
        if model_id in self._census.bundles:
            paths.extend(found.path for found in files_below(self._layout.bundle(model_id)))
        return frozenset(self._by_path[path] for path in paths if path in self._by_path)

    def _inodes_below(self, directory: Path) -> set[_Inode]:
        return {inode for path, inode in self._by_path.items() if path.is_relative_to(directory)}

    def _sum(self, inodes: set[_Inode]) -> int:
        return sum(self._sizes[inode] for inode in inodes)
