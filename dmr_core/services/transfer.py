"""Turning the bytes of several transfers into a readable stream of progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final

from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.ports.clock import Clock

__all__ = ["ProgressMeter", "at_most"]

_MIB: Final = 1024 * 1024
_INTERVAL: Final = 0.1


async def at_most(limit: int, work: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Do all of ``work``, at most ``limit`` at a time; the first failure cancels the rest and is raised as it is."""
    slots = asyncio.Semaphore(limit)

    async def one(step: Callable[[], Awaitable[None]]) -> None:
        async with slots:
            await step()

    try:
        async with asyncio.TaskGroup() as group:
            for step in work:
                group.create_task(one(step))
    except BaseExceptionGroup as exc:
        # What one of them met first is what the caller can act on.
        error: BaseException = exc
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from exc


class ProgressMeter:
    """Collects how far each layer is and gives a line when one has come a noticeable step further.

    The step is the reference's: 100 ms, 1 MiB, or the end of the layer. ``total`` is in bytes.
    """

    def __init__(self, mode: TransferMode, verb: str, clock: Clock) -> None:
        self.total = 0
        self._mode = mode
        self._verb = verb
        self._clock = clock
        self._current: dict[Digest, LayerProgress] = {}
        self._told: dict[Digest, tuple[int, float]] = {}
        self._changed = asyncio.Event()

    def advance(self, layer: LayerProgress) -> None:
        """Note how far a layer is. Quick; may be called for every chunk."""
        self._current[layer.id] = layer
        told, when = self._told.get(layer.id, (-1, -1.0))
        done = layer.current >= layer.size
        if told != layer.current and (
            done or layer.current - told >= _MIB or self._clock.monotonic() - when >= _INTERVAL
        ):
            self._changed.set()

    async def follow(self, work: asyncio.Future[None]) -> AsyncGenerator[Progress, None]:
        """Lines until ``work`` is done; then its error, if it has one. Closing early cancels ``work``."""
        work.add_done_callback(lambda _work: self._changed.set())
        try:
            while not work.done():
                await self._changed.wait()
                self._changed.clear()
                for line in self._news():
                    yield line
            for line in self._news():
                yield line
        finally:
            if not work.done():
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        work.result()

    def _news(self) -> list[Progress]:
        now = self._clock.monotonic()
        lines = []
        for layer in self._current.values():
            told, _ = self._told.get(layer.id, (-1, 0.0))
            if layer.current == told:
                continue
            self._told[layer.id] = (layer.current, now)
            message = f"{self._verb}: {layer.current / _MIB:.2f} MB"
            lines.append(
                Progress(kind=ProgressKind.PROGRESS, message=message, mode=self._mode, total=self.total, layer=layer)
            )
        return lines
