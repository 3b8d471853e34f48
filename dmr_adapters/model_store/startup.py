"""Making a directory a model store, and clearing away what a killed process left."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson

from dmr_adapters.model_store.durability import disk_conditions, make_directories, write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.layout import LAYOUT_VERSION, StoreLayout
from dmr_adapters.model_store.leases import leased_digests
from dmr_adapters.model_store.maintenance.census import take_leftovers
from dmr_adapters.model_store.maintenance.leftovers import delete_abandoned, delete_partial
from dmr_adapters.model_store.reserve import keep_reserve
from dmr_adapters.model_store.version import check_version
from dmr_core.errors import StoreUnwritableError

__all__ = ["prepare", "prepare_directories"]

_PARTIAL_LIFETIME: Final = 7 * 24 * 3600.0


def prepare_directories(layout: StoreLayout) -> None:
    """Create what every later step relies on.

    Raises:
        StoreUnwritableError: the directory cannot be made or written; the message says what to do.
        PreconditionError: a newer version wrote this store.
    """
    check_version(layout)
    with disk_conditions(layout.root):
        for directory in (layout.ingest, layout.temporary, layout.blobs, layout.manifests):
            make_directories(directory)
        if not os.access(layout.root, os.W_OK | os.X_OK):
            raise StoreUnwritableError(
                f"cannot write the model store at {str(layout.root)!r}: give this user write access to it,"
                " or set MODELS_PATH to a directory that is writable"
            )


def prepare(layout: StoreLayout) -> None:
    """Create the documents that are missing and clear away leftovers. The store's lock is held."""
    with disk_conditions(layout.root):
        if not layout.layout_document.exists():
            _write(
                layout, layout.layout_document, orjson.dumps({"version": LAYOUT_VERSION}, option=orjson.OPT_INDENT_2)
            )
        if not layout.index_document.exists():
            _write(layout, layout.index_document, Index().encode())
        _sweep(layout)
    keep_reserve(layout)


def _write(layout: StoreLayout, document: Path, data: bytes) -> None:
    write_durably(document, data, temporary=layout.temporary)


def _sweep(layout: StoreLayout) -> None:
    """Delete what nobody is making any more, and partial blobs that nobody came back for.

    Temporary files go at once: their hard links keep deleted blobs on the disk.
    """
    census, leased, horizon = (
        take_leftovers(layout),
        leased_digests(layout, sweep=True),
        time.time() - _PARTIAL_LIFETIME,
    )
    for found in census.temporary:
        with suppress(OSError):
            delete_abandoned(found.path)
    for digest in (census.partials.keys() | census.journals.keys()) - leased:
        parts = [found for found in (census.partials.get(digest), census.journals.get(digest)) if found]
        if all(found.status.st_mtime < horizon for found in parts):
            with suppress(OSError):
                delete_partial(layout.partial(digest), layout.journal(digest))
    for digest in census.reference_partials.keys() - leased:
        if census.reference_partials[digest].status.st_mtime < horizon:
            with suppress(OSError):
                delete_partial(layout.reference_partial(digest))
