"""Carrying out the rules: leases on the hot path, and the pump behind it.

Only the pump task applies events, so the rules never race. The request path takes a lease on a
ready runner with a dictionary lookup and a counter; the pump reads the counters when it decides and
acts on the decision before anything else can run.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import DmrError, EngineExitedError, ShuttingDownError, UpstreamError
from dmr_core.ports.clock import Clock
from dmr_core.ports.engine import RunningEngine
from dmr_core.ports.metrics import Metrics
from dmr_core.services.scheduling import state as rules
from dmr_core.services.scheduling.lease import Handle, Lease, RunnerView
from dmr_core.services.scheduling.state import Launch, Phase

__all__ = ["Launcher", "Scheduler"]

_log: Final = logging.getLogger("dmr.scheduler")

Launcher = Callable[[RunnerKey, Launch], Awaitable[RunningEngine]]
"""Starts an engine and returns once it can serve. Cancelling it, or its failing, leaves nothing behind."""


class Scheduler:
    """Decides which engines run. Start it with :meth:`start`, end it with :meth:`aclose`."""

    def __init__(self, *, launcher: Launcher, clock: Clock, metrics: Metrics, slots: int, grace: float = 5.0) -> None:
        self._launcher = launcher
        self._clock = clock
        self._metrics = metrics
        self._grace = grace
        self._state = rules.State(slots=slots)
        self._handles: dict[int, Handle] = {}
        self._ready: dict[RunnerKey, Handle] = {}
        self._waiting: dict[int, asyncio.Future[Lease]] = {}
        self._next_demand = 1
        self._inbox: deque[rules.Event] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_task: asyncio.Task[None] | None = None

    # --- life

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        if self._pump_task is None:
            self._pump_task = asyncio.get_running_loop().create_task(self._pump(), name="scheduler-pump")

    async def aclose(self) -> None:
        """Refuse what waits, stop every engine, and return once none is left."""
        if self._pump_task is None:
            return
        self._post(rules.Closed())
        while self._handles and not self._pump_task.done():
            self._empty.clear()
            await self._empty.wait()
        self._pump_task.cancel()
        for handle in list(self._handles.values()):  # there are some only if the pump broke
            await self._stop(handle, "shutdown")
            self._drop(handle.id)
        await asyncio.gather(self._pump_task, *self._tasks, return_exceptions=True)
        self._pump_task = None

    # --- leasing

    def try_lease(self, key: RunnerKey) -> Lease | None:
        """A lease on a ready runner, or ``None`` when there is none to be had at once."""
        handle = self._ready.get(key)
        if handle is None or handle.engine is None:
            return None
        handle.leases += 1
        return Lease(self._give_back, handle, handle.engine.endpoint)

    async def lease(self, key: RunnerKey, launch: Launch) -> Lease:
        """A lease on a runner of ``key``, which is loaded with ``launch`` if there is none.

        A load goes on when whoever asked for it stops waiting.

        Raises:
            ShuttingDownError: the service stops.
            DmrError: why the engine could not be loaded.
        """
        lease = self.try_lease(key)
        if lease is not None:
            return lease
        if self._pump_task is None or self._pump_task.done():
            raise ShuttingDownError("the scheduler is not running")
        demand_id, self._next_demand = self._next_demand, self._next_demand + 1
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting[demand_id] = future
        self._post(rules.Requested(demand_id, key, launch))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise
        finally:
            if self._waiting.pop(demand_id, None) is not None:
                self._post(rules.Abandoned(demand_id))

    def _give_back(self, handle: Handle) -> None:
        handle.leases -= 1
        if handle.leases == 0:
            handle.idle_since = self._clock.monotonic()
            if self._waiting or not handle.armed:
                self._post(rules.Looked())

    # --- looking and steering

    def runners(self) -> tuple[RunnerView, ...]:
        """Every runner there is, oldest first; those being stopped are no longer shown."""
        views = []
        for runner in self._state.runners.values():
            if runner.phase is Phase.DRAINING:
                continue
            handle = self._handles[runner.id]
            idle = runner.phase is Phase.READY and handle.leases == 0
            views.append(
                RunnerView(
                    id=runner.id,
                    key=runner.key,
                    alias=runner.launch.alias,
                    phase=runner.phase,
                    leases=handle.leases,
                    idle_since=handle.idle_since if idle else None,
                    keep_alive=runner.launch.keep_alive,
                    argv=handle.engine.argv if handle.engine else (),
                )
            )
        return tuple(views)

    def unload(self, runner_ids: Iterable[int], reason: str = "unload") -> int:
        """Let these runners go, busy ones as soon as they are done; how many of them there were."""
        wanted = frozenset(runner_ids) & {view.id for view in self.runners()}
        if wanted:
            # At once, so that nobody gets a lease on what is about to go; the event behind it always follows.
            for runner_id in wanted:
                self._close_door(self._handles[runner_id])
            self._post(rules.Unloaded(wanted, reason))
        return len(wanted)

    def retune(self, runner_id: int, keep_alive: KeepAlive) -> None:
        """Keep a live runner for another time."""
        self._post(rules.Retuned(runner_id, keep_alive))

    async def settled(self, runner_ids: Iterable[int]) -> None:
        """Return once none of these runners is left."""
        wanted = set(runner_ids)
        while wanted & self._handles.keys() and self._pump_task is not None and not self._pump_task.done():
            self._empty.clear()
            await self._empty.wait()

    # --- the pump

    def _post(self, event: rules.Event) -> None:
        self._inbox.append(event)
        self._wake.set()

    async def _pump(self) -> None:
        try:
            while True:
                await self._next_wake()
                self._wake.clear()
                self._step(self._inbox.popleft() if self._inbox else rules.Looked())
                while self._inbox:
                    self._step(self._inbox.popleft())
        finally:
            # Whether cancelled or broken: nobody may go on waiting for a pump that is gone.
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ShuttingDownError("the scheduler stopped"))
            self._empty.set()

    async def _next_wake(self) -> None:
        if self._inbox:
            return
        deadline = rules.next_deadline(self._state, self._observe())
        for handle in self._handles.values():
            handle.armed = handle.leases == 0
        if math.isinf(deadline):
            await self._wake.wait()
            return
        delay = max(0.0, deadline - self._clock.monotonic())
        sleeper = asyncio.ensure_future(self._clock.sleep(delay))
        waker = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleeper, waker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()
            await asyncio.gather(sleeper, waker, return_exceptions=True)

    def _observe(self) -> rules.Observed:
        usage = {handle.id: rules.Usage(handle.leases, handle.idle_since) for handle in self._handles.values()}
        return rules.Observed(self._clock.monotonic(), usage)

    def _step(self, event: rules.Event) -> None:
        """Apply one event and carry out what follows. Synchronous on purpose: see the module."""
        if isinstance(event, rules.Stopped | rules.LoadFailed):
            self._drop(event.runner_id)
        elif isinstance(event, rules.Exited) and event.runner_id in self._handles:
            self._close_door(self._handles[event.runner_id])
        elif isinstance(event, rules.Ready):
            handle = self._handles[event.runner_id]
            handle.idle_since = self._clock.monotonic()
        self._state, effects = rules.apply(self._state, event, self._observe())
        if isinstance(event, rules.Ready) and self._state.runners[event.runner_id].phase is Phase.READY:
            handle = self._handles[event.runner_id]
            self._ready[handle.key] = handle
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: rules.Effect) -> None:
        match effect:
            case rules.Start(runner_id, key, launch):
                self._begin(runner_id, key, launch)
            case rules.Retire(runner_id):
                self._close_door(self._handles[runner_id])
            case rules.Stop(runner_id, reason):
                handle = self._handles[runner_id]
                self._close_door(handle)
                self._spawn(self._stop(handle, reason), f"stop-{handle.key}")
            case rules.Grant(demand_id, runner_id):
                self._grant(demand_id, self._handles[runner_id])
            case rules.Refuse(demand_id, error):
                future = self._waiting.pop(demand_id, None)
                if future is not None and not future.done():
                    future.set_exception(error)

    def _grant(self, demand_id: int, handle: Handle) -> None:
        future = self._waiting.pop(demand_id, None)
        if future is None or future.done() or handle.engine is None:
            return
        handle.leases += 1
        future.set_result(Lease(self._give_back, handle, handle.engine.endpoint))

    def _close_door(self, handle: Handle) -> None:
        if self._ready.get(handle.key) is handle:
            del self._ready[handle.key]

    def _drop(self, runner_id: int) -> None:
        handle = self._handles.pop(runner_id, None)
        if handle is not None:
            self._close_door(handle)
            self._metrics.runners(backend=handle.key.backend, change=-1)
        self._empty.set()

    # --- effects that take time

    def _begin(self, runner_id: int, key: RunnerKey, launch: Launch) -> None:
        handle = Handle(id=runner_id, key=key, alias=launch.alias, started=self._clock.monotonic())
        self._handles[runner_id] = handle
        self._metrics.runners(backend=key.backend, change=1)
        handle.task = self._spawn(self._live(handle, launch), f"runner-{key}")

    async def _live(self, handle: Handle, launch: Launch) -> None:
        """Load, then watch until the engine ends. Cancelled only by :meth:`_stop`, which takes over from there."""
        backend = handle.key.backend
        try:
            handle.engine = await self._launcher(handle.key, launch)
        except (Exception, asyncio.CancelledError, SystemExit) as exc:
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
            self._post(rules.LoadFailed(handle.id, error))
            return
        took = self._clock.monotonic() - handle.started
        self._metrics.load(backend=backend, outcome="ready", seconds=took)
        _log.info("%s is ready on %s after %.0f ms", launch.alias, backend, took * 1000)
        self._post(rules.Ready(handle.id))
        try:
            ended = await handle.engine.wait()
        except Exception as exc:  # a plugin's code again: an engine nobody can watch is no engine
            _log.exception("watching %s failed", handle.key)
            ended = EngineExitedError(backend, None, f"{type(exc).__name__}: {exc}")
        handle.ended.set_result(ended)
        _log.warning("%s: %s", launch.alias, ended.summary)
        self._metrics.unload(backend=backend, reason="exited")
        # At once, so that nobody is sent to it; what it may have left behind is cleared up meanwhile.
        self._close_door(handle)
        self._post(rules.Exited(handle.id))
        await self._quietly_stop(handle)
        self._post(rules.Stopped(handle.id))

    async def _stop(self, handle: Handle, reason: str) -> None:
        if handle.task is not None:
            handle.task.cancel()
            await asyncio.gather(handle.task, return_exceptions=True)
        await self._quietly_stop(handle)
        self._metrics.unload(backend=handle.key.backend, reason=reason)
        _log.info("%s was unloaded (%s)", handle.key, reason)
        self._post(rules.Stopped(handle.id))

    async def _quietly_stop(self, handle: Handle) -> None:
        """End the engine; also after it exited by itself, for what it may have left behind."""
        if handle.engine is None:
            return
        try:
            await handle.engine.stop(self._grace)
        except Exception:
            _log.exception("stopping %s failed", handle.key)
        if not handle.ended.done():
            handle.ended.set_result(EngineExitedError(handle.key.backend, None))

    def _spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        if isinstance(task, asyncio.Task):
            task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _being_cancelled() -> bool:
    """Whether somebody asked for this task's end, rather than its code having raised the error by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
