"""Engines that were ready once: why they ended, and whether they still answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, Self, TypeVar

import attrs

from dmr_core.domain.acceleration import Placement
from dmr_core.domain.diagnosis import explain_end
from dmr_core.domain.memory import Footprint
from dmr_core.errors import DeadlineError, DmrError, EngineExitedError, EngineUnresponsiveError, UpstreamError
from dmr_core.ports.clock import Clock
from dmr_core.ports.engine import Engine, RunningEngine
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest
from dmr_core.services.plugin_calls import guarded

__all__ = ["HealthProbe", "WatchedEngine", "explained"]

_log: Final = logging.getLogger("dmr.scheduler")

_STRIKES: Final = 3
_DEADLINE: Final = 3
"""How many intervals an answer to the probe may take."""

_WORKING: Final = 0.01
"""CPU seconds per second from which on an engine works: it may answer late, it is not dead.

llama-server answers its health probe with the same threads as requests. With 40 requests at once they are all taken,
and a probe was seen to wait 17 s, until the first of them was done; it might as well have been an hour.
"""

_LONGEST_WORK: Final = 3600.0
"""Seconds after which even an engine that works is given up: it runs in circles."""

_TELLS: Final = 2.0
"""Seconds a plugin may take to tell what its engine uses."""

_INTRODUCES: Final = 30.0
"""Seconds in which an engine that is ready has told what there is to know of it."""

_STOP_PATIENCE: Final = 15.0
"""Seconds beyond its grace that ending an engine may take: SIGKILL, and a driver that lets go of a device."""

_T = TypeVar("_T")


@attrs.frozen
class HealthProbe:
    """Asks an engine whether it is well."""

    transport: Transport
    endpoint: Endpoint
    path: str

    async def healthy(self, timeout: float) -> bool:
        """Whether the answer was 200, and here within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                request = UpstreamRequest("GET", self.path, ((b"host", b"localhost"),))
                response = await self.transport.send(self.endpoint, request)
                try:
                    while await response.read():
                        pass
                finally:
                    await response.aclose()
        except (UpstreamError, TimeoutError):
            return False
        return response.status == 200


@attrs.define(eq=False, kw_only=True)
class WatchedEngine(RunningEngine):
    """A running engine whose end is explained, and whose connections are closed when it is stopped.

    Once :meth:`watch` was called it is asked for its health every ``interval`` seconds, and also ends (as far as
    whoever waits for its end can see) when it no longer answers: when it refused three probes in a row, or let each
    of them wait for three intervals, and did not compute meanwhile.
    """

    engine: RunningEngine
    kind: Engine
    backend: str
    transport: Transport
    clock: Clock
    interval: float
    kept: AsyncExitStack = attrs.field(factory=AsyncExitStack)
    """What is let go once the engine is gone."""
    placed: Placement | None = None
    """Where it put the model, as it said when it was ready: its output goes on, and forgets."""
    warning: str = ""
    _watch: asyncio.Task[None] | None = None
    _silence: asyncio.Future[EngineExitedError] = attrs.field(
        init=False, factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def endpoint(self) -> Endpoint:
        """See :class:`RunningEngine`."""
        return self.engine.endpoint

    @property
    def argv(self) -> tuple[str, ...]:
        """See :class:`RunningEngine`."""
        return self.engine.argv

    @property
    def pid(self) -> int | None:
        """See :class:`RunningEngine`."""
        return self.engine.pid

    def tail(self) -> str:
        """See :class:`RunningEngine`."""
        return self.engine.tail()

    def placement(self) -> Placement | None:
        """See :class:`RunningEngine`. Kept, if it was told once."""
        if self.placed is None:
            try:
                told: object = self.engine.placement()
            except (Exception, SystemExit):  # a plugin's code: what it cannot tell is not known
                _log.exception("%s cannot tell where it computes", self.backend)
                return None
            self.placed = told if isinstance(told, Placement) else None
        return self.placed

    @property
    def served(self) -> str:
        """See :class:`RunningEngine`."""
        return self.engine.served

    async def introduce(self) -> None:
        """See :class:`RunningEngine`."""
        await guarded(self.engine.introduce, f"{self.backend}: introduce()", timeout=_INTRODUCES)

    async def memory(self) -> Footprint | None:
        """See :class:`RunningEngine`."""
        return await self._told(self.engine.memory, "memory")

    async def cpu_seconds(self) -> float | None:
        """See :class:`RunningEngine`."""
        return await self._told(self.engine.cpu_seconds, "cpu_seconds")

    async def owns_endpoint(self) -> bool | None:
        """See :class:`RunningEngine`."""
        return await self._told(self.engine.owns_endpoint, "owns_endpoint")

    async def _told(self, ask: Callable[[], Awaitable[_T | None]], name: str) -> _T | None:
        """What a plugin tells about its engine, if it does so in good time."""
        try:
            return await guarded(ask, f"{self.backend}: {name}()", timeout=_TELLS)
        except DmrError as exc:
            _log.warning("%s", exc.message)
            return None

    def watch(self) -> Self:
        """Begin to watch; nothing happens where the interval is 0. Ends with :meth:`stop`."""
        if self.interval > 0 and self._watch is None:
            self._watch = asyncio.create_task(self._until_silent(), name=f"watch-{self.endpoint}")
        return self

    async def wait(self) -> EngineExitedError:
        """See :class:`RunningEngine`."""
        ended = asyncio.ensure_future(guarded(self.engine.wait, f"{self.backend}: wait()"))
        try:
            await asyncio.wait({ended, self._silence}, return_when=asyncio.FIRST_COMPLETED)
            # An engine that ended is also silent, and its end says more.
            return explained(self.kind, ended.result()) if ended.done() else self._silence.result()
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def stop(self, grace: float) -> None:
        """See :class:`RunningEngine`."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        gone = True
        try:
            stopping = f"{self.backend}: stop()"
            await guarded(lambda: self.engine.stop(grace), stopping, timeout=grace + _STOP_PATIENCE)
        except (DeadlineError, asyncio.CancelledError):
            gone = False
            raise
        finally:
            await self.transport.forget(self.endpoint)
            if gone:
                await self.kept.aclose()

    async def _until_silent(self) -> None:
        try:
            silent = await self._silent()
        except Exception:
            _log.exception("watching %s failed", self.endpoint)
            return
        self._silence.set_result(
            EngineUnresponsiveError(
                self.backend,
                None,
                self.tail(),
                cause=f"{self.backend} runs, but has not answered for {silent:.0f} s",
                remedy="It is stopped now; ask again to start it anew.",
            )
        )
        # Whoever waits for an answer would wait until it is stopped, which takes as long as its grace.
        await self.transport.forget(self.endpoint)

    async def _silent(self) -> float:
        """Return once the engine is given up: for how many seconds it has said nothing."""
        probe = HealthProbe(self.transport, self.endpoint, self.kind.health_path)
        well, strikes, before = self.clock.monotonic(), 0, None
        while True:
            await self.clock.sleep(self.interval)
            asked = self.clock.monotonic()
            if await probe.healthy(_DEADLINE * self.interval):
                well, strikes, before = self.clock.monotonic(), 0, None
                continue
            now, used = self.clock.monotonic(), await self.cpu_seconds()
            silent = now - well
            works = before is not None and used is not None and used - before[1] > _WORKING * (now - before[0])
            strikes = 0 if works else strikes + 1
            _log.debug("%s did not answer a probe of %.1f s (%d in a row)", self.endpoint, now - asked, strikes)
            if strikes >= _STRIKES or silent > _LONGEST_WORK:
                return silent
            before = (now, used) if used is not None else None


def explained(engine: Engine, failure: EngineExitedError) -> EngineExitedError:
    """Why an engine ended: in the words of its plugin, else in those that hold for any program."""
    try:
        failure = engine.explain(failure)
    except (Exception, SystemExit):  # a plugin's code: its bug must not hide the failure
        _log.exception("explaining the end of %s failed", failure.backend)
    return explain_end(failure)
