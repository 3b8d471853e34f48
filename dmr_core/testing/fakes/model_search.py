"""A hub to search, in memory."""

from __future__ import annotations

import asyncio

import attrs

from dmr_core.domain.search import SearchHit
from dmr_core.errors import DmrError
from dmr_core.ports.model_search import ModelSearch

__all__ = ["InMemoryModelSearch"]


@attrs.define(eq=False)
class InMemoryModelSearch(ModelSearch):
    """A list of hits, as they are once they are described.

    Features:
        * ``fail_with`` makes searching fail, ``fail_describing`` makes describing fail.
        * ``hold`` keeps every search and description waiting until it is set.
        * ``most_at_once`` is how many descriptions were ever asked for at the same time.
    """

    key: str = "dockerhub"
    name: str = "Docker Hub"
    hits: list[SearchHit] = attrs.field(factory=list)
    fail_with: DmrError | None = None
    fail_describing: DmrError | None = None
    hold: asyncio.Event | None = None
    most_at_once: int = 0
    _at_once: int = 0

    async def search(self, term: str, limit: int) -> tuple[SearchHit, ...]:
        """See :class:`ModelSearch`."""
        if self.fail_with is not None:
            raise self.fail_with
        if self.hold is not None:
            await self.hold.wait()
        found = [hit for hit in self.hits if term.lower() in hit.name.lower()]
        found.sort(key=lambda hit: -hit.downloads)
        return tuple(attrs.evolve(hit, backend="unknown", size=0) for hit in found[:limit])

    async def described(self, hit: SearchHit) -> SearchHit:
        """See :class:`ModelSearch`."""
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(0)
            if self.fail_describing is not None:
                raise self.fail_describing
            if self.hold is not None:
                await self.hold.wait()
            known = next((each for each in self.hits if each.name == hit.name), hit)
            return attrs.evolve(hit, backend=known.backend, size=known.size)
        finally:
            self._at_once -= 1
