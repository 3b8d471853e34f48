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
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Capacity, Footprint
from dmr_core.errors import ShuttingDownError
from dmr_core.ports.clock import Clock
from dmr_core.ports.metrics import Metrics
from dmr_core.services.scheduling import events, rules
from dmr_core.services.scheduling.history import Decision, History
from dmr_core.services.scheduling.lease import Handle, Lease, RunnerView, WaitingView, view_of
from dmr_core.services.scheduling.life import Launcher, Lives, Reports
from dmr_core.services.scheduling.queueing import waits_for
from dmr_core.services.scheduling.sampling import CapacityReader, Sample, Sampler
from dmr_core.services.scheduling.state import Launch, Limits, Observed, Phase, Setback, State, Usage
from dmr_core.services.scheduling.waiters import Waiters

__all__ = ["Launcher", "Scheduler"]

_log: Final = logging.getLogger("dmr.scheduler")

FootprintSink = Callable[[RunnerKey, Launch, Footprint], Awaitable[None]]
"""Keeps what a runner was seen to use."""


class Scheduler:
    """Decides which engines run. Start it with :meth:`start`, end it with :meth:`aclose`."""

    def __init__(
        self,
        *,
        launcher: Launcher,
        clock: Clock,
        metrics: Metrics,
        limits: Limits,
        grace: float = 5.0,
        capacity: CapacityReader | None = None,
        on_footprint: FootprintSink | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._on_footprint = on_footprint
        self._samples = capacity is not None or on_footprint is not None
        self._state = State(limits=limits)
        self._stepped = -math.inf
        self._handles: dict[int, Handle] = {}
        self._ready: dict[RunnerKey, Handle] = {}
        self._waiters = Waiters(clock, metrics)
        self._inbox: deque[events.Event] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_task: asyncio.Task[None] | None = None
        self._sampler = Sampler(clock=clock, capacity=capacity, handles=self._handles.values, report=self._keep_sample)
        self._sampling: asyncio.Task[None] | None = None
        self._lives = Lives(
            launcher=launcher,
            clock=clock,
            metrics=metrics,
            grace=grace,
            reports=Reports(
                post=self._post,
                close_door=self._close_door,
                loaded=self._loaded,
                closing=lambda: not self._state.open,
            ),
        )
        self.history = History()

    # --- life

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        if self._pump_task is None:
            loop = asyncio.get_running_loop()
            self._pump_task = loop.create_task(self._pump(), name="scheduler-pump")
            if self._samples:
                self._sampling = loop.create_task(self._sampler.run(), name="scheduler-sampler")

    @property
    def alive(self) -> bool:
        """Whether it works: started, not closed, and its pump did not break."""
        return self._pump_task is not None and not self._pump_task.done()

    async def aclose(self) -> None:
        """Refuse what waits, stop every engine, and return once none is left."""
        if self._pump_task is None:
            return
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self._sampler.aclose()
        self._post(events.Closed())
        while self._handles and not self._pump_task.done():
            self._empty.clear()
            await self._empty.wait()
        self._pump_task.cancel()
        for handle in list(self._handles.values()):  # there are some only if the pump broke
            await self._lives.stop(handle, "shutdown")
            self._drop(handle.id)
        await asyncio.gather(self._pump_task, *self._tasks, return_exceptions=True)
        self._pump_task = None

    # --- leasing

    def try_lease(self, key: RunnerKey) -> Lease | None:
        """A lease on a ready runner, or ``None`` when there is none to be had at once."""
        handle = self._ready.get(key)
        if handle is None or handle.engine is None:
            return None
        if handle.limit is not None and (handle.leases >= handle.limit or self._waiters.any_for(key)):
            return None
        handle.leases += 1
        return Lease(self._give_back, handle, handle.engine)

    async def lease(self, key: RunnerKey, launch: Launch, *, wait: float | None = None) -> Lease:
        """A lease on a runner of ``key``, which is loaded with ``launch`` if there is none.

        ``wait`` is how long to wait for it, in seconds; ``None`` for the usual time, infinity for as long as it takes.
        A load goes on when whoever asked for it stops waiting.

        Raises:
            ShuttingDownError: the service stops.
            QueueFullError, QueueTimeoutError: too many wait, or it was waited for too long.
            ModelTooLargeError: no eviction could make enough room.
            DmrError: why the engine could not be loaded.
        """
        lease = self.try_lease(key)
        if lease is not None:
            return lease
        if self._samples and key not in self._ready:
            await self._sampler.fresh()
        if not self.alive:
            raise ShuttingDownError("the scheduler is not running")
        demand_id, promise = self._waiters.add(key)
        self._post(events.Requested(demand_id, key, launch, wait))
        try:
            return await promise
        except asyncio.CancelledError:
            if promise.done() and not promise.cancelled() and promise.exception() is None:
                promise.result().release()
            raise
        finally:
            if self._waiters.remove(demand_id, "abandoned") is not None:
                self._post(events.Abandoned(demand_id))

    def _give_back(self, handle: Handle) -> None:
        handle.leases -= 1
        if handle.leases == 0:
            handle.idle_since = self._clock.monotonic()
            if self._waiters or not handle.armed:
                self._post(events.Looked())
        elif handle.limit is not None and self._waiters.any_for(handle.key):
            self._post(events.Looked())

    # --- looking and steering

    def runners(self) -> tuple[RunnerView, ...]:
        """Every runner there is, oldest first; those being stopped are no longer shown."""
        views = []
        for runner in self._state.runners.values():
            if runner.phase is Phase.DRAINING:
                continue
            views.append(view_of(runner, self._handles[runner.id]))
        return tuple(views)

    def waiting(self) -> tuple[WaitingView, ...]:
        """Everybody who waits for a runner, in order of arrival."""
        observed = self._observe()
        return tuple(
            WaitingView(
                key=demand.key,
                alias=demand.launch.alias,
                position=position,
                since=demand.since,
                waits_for=waits_for(self._state, demand, observed),
            )
            for position, demand in enumerate(self._state.queue, 1)
        )

    @property
    def capacity(self) -> Capacity:
        """What all runners may occupy together, as last seen."""
        return self._state.capacity

    @property
    def setbacks(self) -> Mapping[RunnerKey, Setback]:
        """Loads and runs that failed in a row, by runner, as last seen."""
        return self._state.setbacks

    @property
    def limits(self) -> Limits:
        """The figures it goes by."""
        return self._state.limits

    async def measure(self) -> None:
        """Look at the memory of every runner now. Never fails."""
        await self._sampler.take()

    def forgive(self, model_id: Digest) -> None:
        """Let a model that failed repeatedly be tried again at once."""
        if any(key.model_id == model_id for key in self._state.setbacks):
            self._post(events.Forgiven(model_id))

    def unload(self, runner_ids: Iterable[int], reason: str = "unload") -> int:
        """Let these runners go, busy ones as soon as they are done; how many of them there were."""
        wanted = frozenset(runner_ids) & {view.id for view in self.runners()}
        if wanted:
            # At once, so that nobody gets a lease on what is about to go; the event behind it always follows.
            for runner_id in wanted:
                self._close_door(self._handles[runner_id])
            self._post(events.Unloaded(wanted, reason))
        return len(wanted)

    def retune(self, runner_id: int, keep_alive: KeepAlive, *, concurrency: int | None = None) -> None:
        """Keep a live runner for another time, and let it answer so many requests at once (0: as many as come)."""
        self._post(events.Retuned(runner_id, keep_alive, concurrency))

    async def settled(self, runner_ids: Iterable[int]) -> None:
        """Return once none of these runners is left."""
        wanted = set(runner_ids)
        while wanted & self._handles.keys() and self._pump_task is not None and not self._pump_task.done():
            self._empty.clear()
            await self._empty.wait()

    async def decided(self) -> None:
        """Return once everything that was asked for so far has been decided, so that :meth:`runners` shows it."""
        while self._inbox and self.alive:  # noqa: ASYNC110 - it takes the pump a turn or two, and it tells nobody
            await asyncio.sleep(0)

    # --- the pump

    def _post(self, event: events.Event) -> None:
        self._inbox.append(event)
        self._wake.set()

    async def _pump(self) -> None:
        try:
            while True:
                await self._next_wake()
                self._wake.clear()
                self._step(self._inbox.popleft() if self._inbox else events.Looked())
                while self._inbox:
                    self._step(self._inbox.popleft())
        finally:
            # Whether cancelled or broken: nobody may go on waiting for a pump that is gone.
            self._waiters.refuse_all(ShuttingDownError("the scheduler stopped"))
            self._empty.set()

    async def _next_wake(self) -> None:
        if self._inbox:
            return
        # As of the last step: what came due since then is due now, and must not be taken for dealt with.
        deadline = rules.next_deadline(self._state, attrs.evolve(self._observe(), now=self._stepped))
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

    def _observe(self) -> Observed:
        usage = {handle.id: Usage(handle.leases, handle.idle_since) for handle in self._handles.values()}
        return Observed(self._clock.monotonic(), usage)

    def _step(self, event: events.Event) -> None:
        """Apply one event and carry out what follows. Synchronous on purpose: see the module."""
        if isinstance(event, events.Stopped | events.LoadFailed):
            self._drop(event.runner_id)
        elif isinstance(event, events.Exited) and event.runner_id in self._handles:
            self._close_door(self._handles[event.runner_id])
        elif isinstance(event, events.Ready):
            self._handles[event.runner_id].idle_since = self._clock.monotonic()
        observed = self._observe()
        self._stepped = observed.now
        self._state, effects = rules.apply(self._state, event, observed)
        if isinstance(event, events.Ready) and self._state.runners[event.runner_id].phase is Phase.READY:
            handle = self._handles[event.runner_id]
            self._ready[handle.key] = handle
        elif isinstance(event, events.Retuned) and event.runner_id in self._state.runners:
            self._handles[event.runner_id].limit = self._state.runners[event.runner_id].launch.concurrency
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: events.Effect) -> None:
        match effect:
            case events.Start(runner_id, key, launch):
                self._begin(runner_id, key, launch)
            case events.Retire(runner_id):
                self._close_door(self._handles[runner_id])
            case events.Stop(runner_id, reason):
                handle = self._handles[runner_id]
                self._close_door(handle)
                self._spawn(self._lives.stop(handle, reason), f"stop-{handle.key}")
            case events.Grant(demand_id, runner_id):
                self._grant(demand_id, self._handles[runner_id])
            case events.Refuse(demand_id, error):
                promise = self._waiters.remove(demand_id, "refused")
                if promise is not None and not promise.done():
                    promise.set_exception(error)
            case events.Note():
                self.history.add(Decision(at=self._clock.time(), **attrs.asdict(effect, recurse=False)))

    def _grant(self, demand_id: int, handle: Handle) -> None:
        promise = self._waiters.remove(demand_id, "granted")
        if promise is None or promise.done() or handle.engine is None:
            return
        handle.leases += 1
        promise.set_result(Lease(self._give_back, handle, handle.engine))

    def _loaded(self) -> None:
        if self._samples:
            self._spawn(self._sampler.take(), "footprint")

    def _keep_sample(self, sample: Sample) -> None:
        used = {}
        for runner_id, footprint in sample.used.items():
            handle = self._handles.get(runner_id)
            runner = self._state.runners.get(runner_id)
            if handle is None or runner is None:
                continue
            handle.footprint = footprint
            used[runner_id] = footprint.memory
            if self._on_footprint is not None:
                self._spawn(self._on_footprint(runner.key, runner.launch, footprint), "footprint")
        self._post(events.Measured(sample.capacity, used))

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
        now = self._clock.monotonic()
        handle = Handle(id=runner_id, key=key, alias=launch.alias, started=now, limit=launch.concurrency)
        self._handles[runner_id] = handle
        self._metrics.runners(backend=key.backend, change=1)
        handle.task = self._spawn(self._lives.live(handle, launch), f"runner-{key}")

    def _spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        if isinstance(task, asyncio.Task):
            task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
