"""Looking after a model store on a file system."""

from __future__ import annotations

import shutil
from pathlib import Path

from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import StoreLock
from dmr_adapters.model_store.maintenance.check import check_store
from dmr_adapters.model_store.maintenance.collect import collect
from dmr_adapters.model_store.maintenance.purge import purge, refuse_other_directories
from dmr_adapters.model_store.maintenance.usage import measure
from dmr_adapters.model_store.reserve import keep_reserve, with_reserve
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_adapters.model_store.version import check_version
from dmr_core.domain.store_report import CheckReport, Collection, StoreUsage
from dmr_core.errors import PreconditionError
from dmr_core.ports.store_maintenance import STALE, CheckWatcher, StoreMaintenance

__all__ = ["FilesystemStoreMaintenance"]


class FilesystemStoreMaintenance(StoreMaintenance):
    """Works on the directory alone, so it needs no open store, and works beside any number of them.

    ``lock_patience`` is how many seconds others may hold the store's lock.
    """

    def __init__(self, root: Path, *, lock_patience: float = 30.0) -> None:
        self._layout = StoreLayout(root.absolute())
        self._lock = StoreLock(self._layout.lock_file, self._layout.root, lock_patience)

    async def collect(
        self, *, partials_older_than: float | None = STALE, everything: bool = False, dry_run: bool = False
    ) -> Collection:
        await finish_in_thread(self._require_store)
        async with self._lock.hold():
            return await finish_in_thread(
                lambda: collect(
                    self._layout, partials_older_than=partials_older_than, everything=everything, dry_run=dry_run
                )
            )

    async def check(
        self, *, repair: bool = False, deep: bool = True, progress: CheckWatcher | None = None
    ) -> CheckReport:
        await finish_in_thread(self._require_store)
        return await check_store(self._layout, self._lock, repair=repair, deep=deep, progress=progress)

    async def clear(self) -> None:
        await finish_in_thread(lambda: refuse_other_directories(self._layout))
        async with self._lock.hold():
            aside = await finish_in_thread(lambda: with_reserve(self._layout, lambda: purge(self._layout)))
        # Nobody else looks there, and terabytes take their time.
        await finish_in_thread(lambda: shutil.rmtree(aside, ignore_errors=True))
        async with self._lock.hold():
            await finish_in_thread(lambda: keep_reserve(self._layout))

    async def usage(self) -> StoreUsage:
        await finish_in_thread(self._require_store)
        # Without the lock: figures that are a moment old are no reason to keep others waiting.
        return await finish_in_thread(lambda: measure(self._layout))

    def _require_store(self) -> None:
        """Refuse a directory that is no store, rather than making one of it."""
        layout = self._layout
        if not any(path.exists() for path in (layout.layout_document, layout.index_document, layout.blobs)):
            raise PreconditionError(f"there is no model store at {str(layout.root)!r}; MODELS_PATH says where it is")
        check_version(layout)
