"""Leases: the right to use a runner, and what is counted about one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import attrs

from dmr_core.domain.acceleration import Placement
from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Footprint, Memory
from dmr_core.errors import EngineExitedError
from dmr_core.ports.engine import RunningEngine
from dmr_core.ports.transport import Endpoint
from dmr_core.services.scheduling.state import Phase, Runner

__all__ = ["Handle", "Lease", "RunnerView", "WaitingView", "view_of"]


@attrs.frozen(kw_only=True)
class WaitingView:
    """A request that waits for a runner, as people see it.

    ``position`` counts from 1 over all that wait; ``since`` is monotonic seconds; ``waits_for`` says what has to
    happen first.
    """

    key: RunnerKey
    alias: str
    position: int
    since: float
    waits_for: str


@attrs.frozen(kw_only=True)
class RunnerView:
    """A runner as people see it.

    ``since`` (of the phase) and ``idle_since`` are monotonic seconds, ``load_seconds`` is ``None`` until it is ready;
    ``argv``, ``pid`` and ``endpoint`` are empty until then too. ``needs`` is what is reserved for it, ``footprint``
    what it was last seen to use, ``placement`` where it computes, as far as it tells, and ``warning`` what is wrong with that.
    """

    id: int
    key: RunnerKey
    alias: str
    phase: Phase
    leases: int
    idle_since: float | None
    keep_alive: KeepAlive
    argv: tuple[str, ...] = ()
    since: float = 0.0
    load_seconds: float | None = None
    pid: int | None = None
    endpoint: Endpoint | None = None
    needs: Memory = attrs.field(factory=Memory)
    footprint: Footprint | None = None
    placement: Placement | None = None
    warning: str = ""


@attrs.define(eq=False, kw_only=True)
class Handle:
    """The shell's side of a runner: what is counted, and what must be awaited."""

    id: int
    key: RunnerKey
    alias: str
    started: float
    engine: RunningEngine | None = None
    limit: int | None = None
    leases: int = 0
    idle_since: float = 0.0
    footprint: Footprint | None = None
    armed: bool = False
    ended: asyncio.Future[EngineExitedError] = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[None] | None = None


class Lease:
    """The right to use a runner until :meth:`release`. Also a context manager."""

    __slots__ = ("_give_back", "_handle", "alias", "endpoint", "served")

    def __init__(self, give_back: Callable[[Handle], None], handle: Handle, engine: RunningEngine) -> None:
        self._give_back = give_back
        self._handle: Handle | None = handle
        self.endpoint = engine.endpoint
        self.alias = handle.alias
        self.served = engine.served
        """The only name the engine takes the model by; empty where it takes any."""

    @property
    def key(self) -> RunnerKey | None:
        """What is leased; ``None`` once released."""
        return self._handle.key if self._handle else None

    def release(self) -> None:
        """Give the runner back. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._give_back(handle)

    async def failure(self, timeout: float) -> EngineExitedError | None:
        """Why the engine is gone, if it is or will be within ``timeout`` seconds."""
        if self._handle is None:
            return None
        done, _ = await asyncio.wait({self._handle.ended}, timeout=timeout)
        return self._handle.ended.result() if done else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


def view_of(runner: Runner, handle: Handle) -> RunnerView:
    """What can be told of a runner."""
    engine = handle.engine
    idle = runner.phase is Phase.READY and handle.leases == 0
    return RunnerView(
        id=runner.id,
        key=runner.key,
        alias=runner.launch.alias,
        phase=runner.phase,
        leases=handle.leases,
        idle_since=handle.idle_since if idle else None,
        keep_alive=runner.launch.keep_alive,
        argv=engine.argv if engine else (),
        since=runner.since,
        load_seconds=None if runner.phase is Phase.LOADING else runner.load_seconds,
        pid=engine.pid if engine else None,
        endpoint=engine.endpoint if engine else None,
        needs=runner.reserved,
        footprint=handle.footprint,
        placement=engine.placement() if engine else None,
        warning=engine.warning if engine else "",
    )
