"""Looking after a model store: what nobody needs, what is damaged, where the bytes are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from dmr_core.domain.store_report import CheckProgress, CheckReport, Collection, StoreUsage

__all__ = ["STALE", "CheckWatcher", "StoreMaintenance"]

STALE: Final = 24 * 3600.0
"""Seconds after which a download that nobody took up again counts as abandoned."""

CheckWatcher = Callable[[CheckProgress], None]
"""Told how far a check is. Quick, and never fails."""


class StoreMaintenance(Protocol):
    """Works on a store that others may use at the same time, in this process and in others.

    What a live lease names is never touched. Whoever holds a :class:`~dmr_core.ports.model_store.ModelStore` of the same place
    refreshes it after any of these.
    """

    @abstractmethod
    async def collect(
        self, *, partials_older_than: float | None = STALE, everything: bool = False, dry_run: bool = False
    ) -> Collection:
        """Remove what no model needs: blobs, manifests and bundles of no model, stale partials, temporary leftovers.

        ``partials_older_than`` is in seconds; ``None`` leaves every partial. ``everything`` also takes models without a tag,
        models that are complete but in no index, and what a repair set aside. Files that are not the store's are left alone.

        Raises:
            PreconditionError: the index is damaged, so that nobody knows what is needed; nothing was removed.
            UnavailableError: another process keeps the store locked.
        """

    @abstractmethod
    async def check(
        self, *, repair: bool = False, deep: bool = True, progress: CheckWatcher | None = None
    ) -> CheckReport:
        """Look for damage; with ``deep`` every byte is compared with its digest, else sizes alone.

        ``repair`` mends what can be mended without losing anything: what is damaged is set aside, and so are the models it
        leaves incomplete, so that the next pull fetches what is missing and nothing else. May be cancelled.

        Raises:
            UnavailableError: another process keeps the store locked.
            StoreUnwritableError: there is no such store, or a repair could not be written.
        """

    @abstractmethod
    async def clear(self) -> None:
        """Remove every model, and everything that belongs to one; an empty store is left.

        Raises:
            PreconditionError: the directory is not empty and no model store.
            ModelInUseError: something is being used, in this process or another; nothing was removed.
        """

    @abstractmethod
    async def usage(self) -> StoreUsage:
        """Where the bytes of the disk are."""
