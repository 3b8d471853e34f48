"""Emptying a store."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from dmr_adapters.model_store.durability import disk_conditions, make_directories
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import live_leases
from dmr_adapters.model_store.maintenance.census import take_census
from dmr_adapters.model_store.maintenance.leftovers import delete_abandoned
from dmr_core.errors import ModelInUseError, PreconditionError

__all__ = ["purge", "refuse_other_directories"]


def refuse_other_directories(layout: StoreLayout) -> None:
    """Refuse a directory that has something in it, and is no model store.

    Raises:
        PreconditionError: in the reference's words.
    """
    if layout.layout_document.is_file():
        return
    try:
        is_empty = not any(True for _ in layout.root.iterdir())
    except FileNotFoundError:
        is_empty = True
    if not is_empty:
        raise PreconditionError(
            f'refusing to reset: directory "{layout.root}" does not appear to be a model store (missing layout.json)'
        )


def purge(layout: StoreLayout) -> Path:
    """Remove every model and whatever belongs to one; the directory that is left to be deleted. The store's lock is held.

    Settings, measurements, and files that are not the store's stay. A process killed in the middle leaves an index without
    models, and files that the next start or collection deletes.

    Raises:
        ModelInUseError: something is leased; nothing was removed.
        StorageFullError, StoreUnwritableError: not everything was removed.
    """
    for lease in live_leases(layout, sweep=True):
        raise ModelInUseError(
            f"models are being used by {lease.holder}: they run, or are being pulled or pushed; unload them there,"
            " or wait, and try again"
        )
    with disk_conditions(layout.root):
        strays = take_census(layout).strays
        IndexFile(layout).write(Index())
        make_directories(layout.temporary)
        aside = Path(tempfile.mkdtemp(prefix="purged.", dir=layout.temporary))
        # Renamed in one step each, so that no half of anything is seen; manifests first, so that none comes back.
        for directory in (layout.manifests, layout.bundles, layout.blobs, layout.ingest, layout.quarantine):
            with suppress(FileNotFoundError):
                directory.rename(aside / f"{directory.parent.name}-{directory.name}")
        for stray in strays:
            stray.path.unlink(missing_ok=True)
        for entry in set(layout.temporary.iterdir()) - {aside}:
            delete_abandoned(entry)
        for directory in (layout.ingest, layout.blobs, layout.manifests):
            make_directories(directory)
    return aside
