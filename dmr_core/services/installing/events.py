"""What the rules of installing know, are told, and answer: one backend's state, events in, effects out."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import attrs

from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.errors import DmrError

__all__ = [
    "Answer",
    "Begin",
    "Cancel",
    "Closed",
    "Effect",
    "Ended",
    "Event",
    "Left",
    "Phase",
    "Remove",
    "Seen",
    "State",
    "Told",
    "Unwanted",
    "Wanted",
]


class Phase(StrEnum):
    """Where a backend's engine stands."""

    UNKNOWN = "unknown"  # nobody has looked yet; counts as usable
    NOT_INSTALLED = "not-installed"
    INSTALLING = "installing"
    INSTALLED = "installed"
    UNINSTALLING = "uninstalling"
    FAILED = "failed"  # the last installation did, and there is no engine


# --- events -----------------------------------------------------------------------------------------


@attrs.frozen
class Seen:
    """The engine was asked how it is."""

    status: BackendStatus


@attrs.frozen
class Wanted:
    """A caller wants the engine, in ``version`` or in any. ``on_demand``: a model needs it, nobody asked in person."""

    caller_id: int
    version: str | None = None
    on_demand: bool = False


@attrs.frozen
class Unwanted:
    """A caller wants the engine removed."""

    caller_id: int


@attrs.frozen
class Left:
    """A caller no longer waits. What it asked for goes on."""

    caller_id: int


@attrs.frozen
class Told:
    """What an installation does, and which share of it is done (0 to 1), if that is known."""

    what: str
    share: float | None = None


@attrs.frozen
class Ended:
    """The work that :class:`Begin` or :class:`Remove` started is over; ``status`` is what the engine says now."""

    status: BackendStatus
    error: DmrError | None = None


@attrs.frozen
class Closed:
    """The service stops."""


Event: TypeAlias = Seen | Wanted | Unwanted | Left | Told | Ended | Closed


# --- effects ----------------------------------------------------------------------------------------


@attrs.frozen
class Begin:
    """Start installing."""

    version: str | None


@attrs.frozen
class Remove:
    """Start removing: unload what uses the engine, then the engine itself."""


@attrs.frozen
class Cancel:
    """Cancel the work that runs; :class:`Ended` follows when it has stopped."""


@attrs.frozen
class Answer:
    """Tell a caller that it has what it wanted, or why not."""

    caller_id: int
    error: DmrError | None = None


Effect: TypeAlias = Begin | Remove | Cancel | Answer


# --- state ------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class State:
    """Everything the rules know of one backend.

    ``status`` is what the engine said last. While something runs, ``what`` and ``share`` tell how far it is.
    ``takers`` wait for an installation, ``leavers`` for a removal; those of the kind that does not run now have
    their turn when it has ended. ``attempts`` counts failed installations in a row, ``retry_at`` (seconds,
    monotonic) is when a request may cause the next one.
    """

    name: str
    phase: Phase = Phase.UNKNOWN
    status: BackendStatus = attrs.field(default=BackendStatus(BackendState.NOT_INSTALLED))
    what: str = ""
    share: float | None = None
    version: str | None = None
    takers: tuple[Wanted, ...] = ()
    leavers: tuple[int, ...] = ()
    attempts: int = 0
    retry_at: float = 0.0
    error: DmrError | None = None
    cancelled: bool = False
    open: bool = True

    @property
    def working(self) -> bool:
        """Whether something is being installed or removed."""
        return self.phase in (Phase.INSTALLING, Phase.UNINSTALLING)

    @property
    def usable(self) -> bool:
        """Whether engines may be started; also while another version is brought beside the one that is there."""
        upgrading = self.phase is Phase.INSTALLING and self.status.state is BackendState.RUNNING
        return upgrading or self.phase in (Phase.INSTALLED, Phase.UNKNOWN)
