"""Turning the bytes of several transfers into a readable stream of progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final

from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.ports.clock import Clock

__all__ = ["ProgressMeter", "at_most", "take"]

_MIB: Final = 1024 * 1024
_INTERVAL: Final = 0.1
_HEARTBEAT: Final = 10.0


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


async def take(clock: Clock, slots: asyncio.Semaphore, line: Progress) -> AsyncGenerator[Progress, None]:
    """Take a place of ``slots``; gives ``line`` at once and every ten seconds for as long as there is none.

    Exhausted, the place is the caller's, who gives it back with ``slots.release()``; closed early, it is nobody's.
    """
    taking = asyncio.ensure_future(slots.acquire())
    try:
        await asyncio.sleep(0)
        while not taking.done():
            yield line
            ticking = asyncio.ensure_future(clock.sleep(_HEARTBEAT))
            try:
                await asyncio.wait({taking, ticking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ticking.cancel()
                await asyncio.gather(ticking, return_exceptions=True)
    except BaseException:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not taking.cancelled():
            slots.release()
        raise


class ProgressMeter:
    """Collects how far each layer is and gives lines about it, ten times a second at most, and one at its end.

    The reference gives one for every MiB as well, which on a fast line is a thousand a second. ``total`` is in bytes.
    """

    def __init__(self, mode: TransferMode, verb: str, clock: Clock) -> None:
        self.total = 0
        self._mode = mode
        self._verb = verb
        self._clock = clock
        self._current: dict[Digest, LayerProgress] = {}
        self._told: dict[Digest, tuple[int, float]] = {}
        self._changed = asyncio.Event()
        self._latest: Progress | None = None
        self._silent = True  # no line since the last heartbeat

    def advance(self, layer: LayerProgress) -> None:
        """Note how far a layer is. Quick; may be called for every chunk."""
        self._current[layer.id] = layer
        told, when = self._told.get(layer.id, (-1, -1.0))
        if told != layer.current and (layer.current >= layer.size or self._clock.monotonic() - when >= _INTERVAL):
            self._changed.set()

    async def follow(self, work: asyncio.Future[None]) -> AsyncGenerator[Progress, None]:
        """Lines until ``work`` is done; then its error, if it has one. Closing early cancels ``work``.

        Where nothing changes for ten seconds the last line comes again: whoever reads, and every proxy between,
        sees that somebody is still there.
        """
        work.add_done_callback(lambda _work: self._changed.set())
        heart = asyncio.ensure_future(self._beat())
        try:
            while not work.done():
                await self._changed.wait()
                self._changed.clear()
                lines = self._news()
                if not lines and self._silent and not work.done():
                    waiting = Progress(kind=ProgressKind.PROGRESS, message="Waiting", mode=self._mode, total=self.total)
                    lines = [self._latest or waiting]
                for line in lines:
                    self._silent = False
                    yield line
            for line in self._news():
                yield line
        finally:
            heart.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, heart, return_exceptions=True)
        work.result()

    async def _beat(self) -> None:
        while True:
            self._silent = True
            await self._clock.sleep(_HEARTBEAT)
            self._changed.set()

    def _news(self) -> list[Progress]:
        now = self._clock.monotonic()
        lines = []
        for layer in self._current.values():
            told, _ = self._told.get(layer.id, (-1, 0.0))
            if layer.current == told:
                continue
            self._told[layer.id] = (layer.current, now)
            message = f"{self._verb}: {layer.current / _MIB:.2f} MB"
            self._latest = Progress(
                kind=ProgressKind.PROGRESS, message=message, mode=self._mode, total=self.total, layer=layer
            )
            lines.append(self._latest)
        return lines
