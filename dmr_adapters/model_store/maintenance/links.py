"""Telling blobs that are somebody's own files, as ``dmr package --link`` makes them, from those that are the store's alone."""

from __future__ import annotations

from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.maintenance.census import Found, files_below

__all__ = ["is_linked_outside"]


def is_linked_outside(layout: StoreLayout, blob: Found) -> bool:
    """Whether ``blob`` has more names than the store gave it, which are its own, those of bundles, and the quarantine's.

    Looks through all of those where the blob has more than one, so it is for blobs that are at fault.
    """
    status = blob.status
    if status.st_nlink < 2:
        return False
    wanted = status.st_dev, status.st_ino
    places = layout.blobs, layout.bundles, layout.quarantine
    files = (file for place in places for file in files_below(place))
    return status.st_nlink > sum((file.status.st_dev, file.status.st_ino) == wanted for file in files)
