"""Answers that are kept as long as the test."""

from __future__ import annotations

import math

import attrs

from dmr_core.errors import BodyTooLargeError, DmrError, StorageFullError
from dmr_core.ports.clock import Clock
from dmr_core.ports.response_store import KeptResponse, ResponseStore

__all__ = ["InMemoryResponseStore"]


class InMemoryResponseStore(ResponseStore):
    """A dictionary in the order of use; ``fail_with`` makes writing fail. ``lifetime`` in seconds."""

    def __init__(self, clock: Clock, *, lifetime: float = math.inf, max_bytes: int = 1 << 20) -> None:
        self.kept: dict[str, tuple[float, KeptResponse]] = {}
        self.fail_with: DmrError | None = None
        self.closed = False
        self._clock = clock
        self._lifetime = lifetime
        self._max_bytes = max_bytes

    async def keep(self, response: KeptResponse) -> None:
        """See :class:`ResponseStore`."""
        if self.fail_with is not None:
            raise self.fail_with
        if response.size > self._max_bytes:
            raise StorageFullError("the response is too large", needs=response.size, has=self._max_bytes)
        self.kept.pop(response.id, None)
        self.kept[response.id] = self._clock.time(), response
        while sum(kept.size for _, kept in self.kept.values()) > self._max_bytes:
            del self.kept[next(iter(self.kept))]

    async def find(self, response_id: str) -> KeptResponse | None:
        """See :class:`ResponseStore`."""
        used, found = self.kept.get(response_id, (0.0, None))
        return found if found is not None and self._clock.time() - used < self._lifetime else None

    async def chain(self, response_id: str, max_bytes: int) -> tuple[KeptResponse, ...]:
        """See :class:`ResponseStore`."""
        found: list[KeptResponse] = []
        wanted: str | None = response_id
        while wanted is not None and (kept := await self.find(wanted)) is not None:
            if kept in found:
                break
            found.append(kept)
            wanted = kept.previous_id
        if sum(len(kept.document) + len(kept.input) for kept in found) > max_bytes:
            raise BodyTooLargeError(max_bytes)
        for kept in reversed(found):
            _, whole = self.kept.pop(kept.id)
            self.kept[kept.id] = self._clock.time(), whole
        return tuple(attrs.evolve(kept, events=b"") for kept in found)

    async def remove(self, response_id: str) -> bool:
        """See :class:`ResponseStore`."""
        found = await self.find(response_id)
        self.kept.pop(response_id, None)
        return found is not None

    async def aclose(self) -> None:
        """See :class:`ResponseStore`."""
        self.closed = True
