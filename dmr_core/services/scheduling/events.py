"""What the rules of scheduling are told, and what they answer: events in, effects out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Capacity, Memory
from dmr_core.domain.secret import Secret
from dmr_core.errors import DmrError

__all__ = [
    "Abandoned",
    "Closed",
    "Effect",
    "Event",
    "Exited",
    "Forgiven",
    "Grant",
    "Launch",
    "LoadFailed",
    "Looked",
    "Measured",
    "Note",
    "Ready",
    "Refuse",
    "Requested",
    "Retire",
    "Retuned",
    "Start",
    "Stop",
    "Stopped",
    "Unloaded",
]


@attrs.frozen(kw_only=True)
class Launch:
    """How to start a runner, should one have to be started.

    ``needs`` is the memory to reserve for it; ``concurrency`` is how many requests it may answer at once,
    ``None`` for as many as come. ``secret`` is what whoever asked gave along for the engine.
    """

    alias: str
    config: EngineConfig = attrs.field(factory=EngineConfig)
    keep_alive: KeepAlive = attrs.field(default=KeepAlive(300.0))
    needs: Memory = attrs.field(factory=Memory)
    concurrency: int | None = None
    secret: Secret | None = attrs.field(default=None, eq=False)


# --- events -----------------------------------------------------------------------------------------


@attrs.frozen
class Requested:
    """Somebody wants a runner and found none free. ``wait`` is how long they will, in seconds; ``None``: the usual."""

    demand_id: int
    key: RunnerKey
    launch: Launch
    wait: float | None = None


@attrs.frozen
class Abandoned:
    """Whoever made the demand no longer waits."""

    demand_id: int


@attrs.frozen
class Ready:
    """A runner can serve."""

    runner_id: int


@attrs.frozen
class LoadFailed:
    """A runner could not be made ready; nothing of it is left."""

    runner_id: int
    error: DmrError


@attrs.frozen
class Exited:
    """A runner that was ready ended by itself; :class:`Stopped` follows once nothing of it is left."""

    runner_id: int
    error: DmrError | None = None


@attrs.frozen
class Stopped:
    """A runner that was draining is gone."""

    runner_id: int


@attrs.frozen
class Unloaded:
    """These runners are to go; busy ones once they are done."""

    runner_ids: frozenset[int]
    reason: str = "unload"


@attrs.frozen
class Retuned:
    """A live runner is to be kept for another time, or to answer another number of requests at once; no restart."""

    runner_id: int
    keep_alive: KeepAlive
    concurrency: int | None = None


@attrs.frozen
class Measured:
    """Memory was looked at: what there is for all runners, and what these were seen to use."""

    capacity: Capacity
    used: Mapping[int, Memory] = attrs.field(factory=dict)


@attrs.frozen
class Forgiven:
    """Failures of these runners no longer count: somebody changed something, or asks for another try."""

    model_id: Digest


@attrs.frozen
class Looked:
    """Time has passed, or a runner became idle."""


@attrs.frozen
class Closed:
    """No more loads; everything is to stop."""


Event: TypeAlias = (
    Requested
    | Abandoned
    | Ready
    | LoadFailed
    | Exited
    | Stopped
    | Unloaded
    | Retuned
    | Measured
    | Forgiven
    | Looked
    | Closed
)


# --- effects ----------------------------------------------------------------------------------------


@attrs.frozen
class Start:
    """Begin loading."""

    runner_id: int
    key: RunnerKey
    launch: Launch


@attrs.frozen
class Retire:
    """Give the runner no new leases."""

    runner_id: int


@attrs.frozen
class Stop:
    """Give no new leases and end it; it is idle, or still loading."""

    runner_id: int
    reason: str


@attrs.frozen
class Grant:
    """Give the demand a lease on the runner."""

    demand_id: int
    runner_id: int


@attrs.frozen
class Refuse:
    """Tell the demand that it will not be served."""

    demand_id: int
    error: DmrError


@attrs.frozen
class Note:
    """Remember what was decided, and by which figures; fields as in :class:`~.history.Decision`."""

    key: RunnerKey
    alias: str
    what: str
    why: str = ""
    numbers: Mapping[str, float] = attrs.field(factory=dict)


Effect: TypeAlias = Start | Retire | Stop | Grant | Refuse | Note
