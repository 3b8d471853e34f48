"""Looking after the store while models run: nothing that is in use goes, and nobody goes on using what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import CheckProgress, CheckReport, Collection, StoreUsage
from dmr_core.errors import ModelInUseError, PreconditionError
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.store_maintenance import STALE, CheckWatcher, StoreMaintenance
from dmr_core.services.inference import InferenceService
from dmr_core.services.scheduling.scheduler import Scheduler

__all__ = ["MaintenanceService", "UnmaintainedStore"]

_NAMED: Final = 3


@attrs.frozen(kw_only=True)
class MaintenanceService:
    """Collects, checks, measures and empties the store of a service."""

    store: ModelStore
    maintenance: StoreMaintenance
    scheduler: Scheduler
    inference: InferenceService

    async def prune(
        self, *, everything: bool = False, dry_run: bool = False, partials_older_than: float | None = None
    ) -> Collection:
        """Remove what no model needs, as :meth:`StoreMaintenance.collect` does.

        ``everything`` also takes every download that is not under way. ``partials_older_than`` is in seconds, a day if not given.

        Raises as :meth:`StoreMaintenance.collect`.
        """
        age = partials_older_than if partials_older_than is not None else 0.0 if everything else STALE
        collection = await self.maintenance.collect(partials_older_than=age, everything=everything, dry_run=dry_run)
        if not dry_run:
            await self._gone(collection.models)
        return collection

    async def check(
        self, *, repair: bool = False, deep: bool = True
    ) -> AsyncGenerator[CheckProgress | CheckReport, None]:
        """Check the store: how far it is, as often as somebody asks, and the report at last.

        Leaving the generator ends the check.

        Raises as :meth:`StoreMaintenance.check`.
        """
        latest: list[CheckProgress] = []
        news = asyncio.Event()

        def watch(progress: CheckProgress) -> None:
            latest[:] = [progress]
            news.set()

        work = asyncio.ensure_future(self.maintenance.check(repair=repair, deep=deep, progress=watch))
        work.add_done_callback(lambda _: news.set())
        try:
            while not work.done():
                await news.wait()
                news.clear()
                if latest:
                    yield latest.pop()
            report = work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if repair:
            await self.store.refresh()
        yield report

    async def usage(self) -> StoreUsage:
        """Where the bytes of the disk are."""
        return await self.maintenance.usage()

    async def purge(self) -> None:
        """Remove every model, with its settings; idle ones are taken out of memory first.

        Raises:
            ModelInUseError: a model is answering, loading, or being pulled or pushed, here or elsewhere; none was removed.
            PreconditionError: the directory is no model store.
        """
        views = self.scheduler.runners()
        busy = [view.alias for view in views if view.leases]
        if busy:
            raise ModelInUseError(f"{_listed(busy)} answering; unload the models first, or wait, and try again")
        self.scheduler.unload([view.id for view in views], "purged")
        await self.scheduler.settled(view.id for view in views)
        models = [model.id for model in self.store.models()]
        await self.maintenance.clear()
        await self._gone(models)

    async def _gone(self, models: Iterable[Digest]) -> None:
        await self.store.refresh()
        for model_id in models:
            await self.inference.forget(model_id)


class UnmaintainedStore(StoreMaintenance):
    """Refuses everything: for a store that was put in by somebody else, who looks after it."""

    async def collect(
        self, *, partials_older_than: float | None = STALE, everything: bool = False, dry_run: bool = False
    ) -> Collection:
        """See :class:`StoreMaintenance`."""
        raise self._refusal()

    async def check(
        self, *, repair: bool = False, deep: bool = True, progress: CheckWatcher | None = None
    ) -> CheckReport:
        """See :class:`StoreMaintenance`."""
        raise self._refusal()

    async def clear(self) -> None:
        """See :class:`StoreMaintenance`."""
        raise self._refusal()

    async def usage(self) -> StoreUsage:
        """See :class:`StoreMaintenance`."""
        raise self._refusal()

    def _refusal(self) -> PreconditionError:
        return PreconditionError("this service uses a store that somebody else looks after")


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
