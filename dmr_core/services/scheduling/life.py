"""The life of one runner: loaded, watched until it ends by itself, or stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.errors import DeadlineError, DmrError, EngineExitedError, UpstreamError
from dmr_core.ports.clock import Clock
from dmr_core.ports.engine import RunningEngine
from dmr_core.ports.metrics import Metrics
from dmr_core.services.plugin_calls import guarded
from dmr_core.services.scheduling import events
from dmr_core.services.scheduling.lease import Handle
from dmr_core.services.scheduling.state import Launch

__all__ = ["Launcher", "Lives", "Reports"]

_log: Final = logging.getLogger("dmr.scheduler")
_STOP_ATTEMPTS: Final = 6
_STOP_PATIENCE: Final = 20.0
"""Seconds beyond its grace that one attempt to end an engine may take."""

Launcher = Callable[[RunnerKey, Launch], Awaitable[RunningEngine]]
"""Starts an engine and returns once it can serve. Cancelling it, or its failing, leaves nothing behind."""


@attrs.frozen(kw_only=True)
class Reports:
    """Whom to tell. ``loaded``: that there is a footprint to look at; ``closing``: asks whether the service stops."""

    post: Callable[[events.Event], None]
    close_door: Callable[[Handle], None]
    loaded: Callable[[], None]
    closing: Callable[[], bool]


class Lives:
    """Leads runners through their lives, each in a task of its own."""

    def __init__(self, *, launcher: Launcher, clock: Clock, metrics: Metrics, grace: float, reports: Reports) -> None:
        self._launcher = launcher
        self._clock = clock
        self._metrics = metrics
        self._grace = grace
        self._reports = reports

    async def live(self, handle: Handle, launch: Launch) -> None:
        """Load, then watch until the engine ends. Cancelled only by :meth:`stop`, which takes over from there."""
        backend = handle.key.backend
        try:
            handle.engine = await self._launcher(handle.key, launch)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            # A bug in a plugin must cost its own load, not the pump; only our own stop cancels us.
            if isinstance(exc, asyncio.CancelledError) and _being_cancelled():
                self._metrics.load(
                    backend=backend, outcome="cancelled", seconds=self._clock.monotonic() - handle.started
                )
                raise
            error = (
                exc if isinstance(exc, DmrError) else UpstreamError(f"{backend} failed: {type(exc).__name__}: {exc}")
            )
            if error is not exc:
                _log.exception("loading %s failed", handle.key)
            self._metrics.load(backend=backend, outcome="failed", seconds=self._clock.monotonic() - handle.started)
            _log.warning("%s could not be loaded: %s", launch.alias, error.message.partition("\n")[0])
            self._reports.post(events.LoadFailed(handle.id, error))
            return
        took = self._clock.monotonic() - handle.started
        self._metrics.load(backend=backend, outcome="ready", seconds=took)
        _log.info("%s is ready on %s after %.0f ms", launch.alias, backend, took * 1000)
        self._reports.post(events.Ready(handle.id))
        self._reports.loaded()
        try:
            ended = await guarded(handle.engine.wait, f"{handle.key}: wait()")
        except DmrError as exc:  # a plugin's code again: an engine nobody can watch is no engine
            ended = EngineExitedError(backend, None, exc.message)
        handle.ended.set_result(ended)
        _log.warning("%s: %s", launch.alias, ended.summary)
        self._metrics.unload(backend=backend, reason="exited")
        # At once, so that nobody is sent to it; what it may have left behind is cleared up meanwhile.
        self._reports.close_door(handle)
        self._reports.post(events.Exited(handle.id, ended))
        await self._quietly_stop(handle)
        self._reports.post(events.Stopped(handle.id))

    async def stop(self, handle: Handle, reason: str) -> None:
        """End a runner in whichever phase it is, and report it gone."""
        if handle.task is not None:
            handle.task.cancel()
            await asyncio.gather(handle.task, return_exceptions=True)
        await self._quietly_stop(handle)
        self._metrics.unload(backend=handle.key.backend, reason=reason)
        _log.info("%s was unloaded (%s)", handle.key, reason)
        self._reports.post(events.Stopped(handle.id))

    async def _quietly_stop(self, handle: Handle) -> None:
        """End the engine; also after it exited by itself, for what it may have left behind.

        What does not end keeps its place: to give it away while the memory is still taken would take the next one down.
        """
        engine = handle.engine
        if engine is None:
            return
        what, limit = f"{handle.key}: stop()", self._grace + _STOP_PATIENCE
        for attempt in range(_STOP_ATTEMPTS):
            try:
                await guarded(lambda: engine.stop(self._grace), what, timeout=limit)
                break
            except DeadlineError as exc:
                _log.error("%s: %s (attempt %d of %d)", handle.key, exc.message, attempt + 1, _STOP_ATTEMPTS)
                if self._reports.closing():
                    break
            except DmrError as exc:
                _log.error("%s", exc.message)
                break
        if not handle.ended.done():
            handle.ended.set_result(EngineExitedError(handle.key.backend, None))


def _being_cancelled() -> bool:
    """Whether somebody asked for this task's end, rather than its code having raised the error by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
