"""The rules of installing one backend's engine: events in, state and effects out. Pure.

Every backend has a state of its own, so a slow or failing installation touches no other. Whoever carries
the rules out (``installer.py``) applies events one at a time, looks at the engine after every piece of
work, and hands in what it saw: what is true is what the engine says, never what a run should have left.
"""

from __future__ import annotations

from typing import Final, assert_never

import attrs

from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.errors import BackendInstallError, ConflictError, DmrError, ShuttingDownError
from dmr_core.services.installing.events import (
    Answer,
    Begin,
    Cancel,
    Closed,
    Effect,
    Ended,
    Event,
    Left,
    Phase,
    Remove,
    Seen,
    State,
    Told,
    Unwanted,
    Wanted,
)

__all__ = ["apply", "delay_after"]

_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 300.0


def delay_after(attempts: int) -> float:
    """Seconds until a request may cause another attempt: 5, 10, 20 … 300."""
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (max(1, attempts) - 1)))


def apply(state: State, event: Event, now: float) -> tuple[State, tuple[Effect, ...]]:
    """What follows from ``event`` at ``now`` (seconds, monotonic)."""
    match event:
        case Seen(status):
            return (state if state.working else _seen(state, status)), ()
        case Told(what, share):
            if state.phase is not Phase.INSTALLING or state.cancelled:
                return state, ()
            return attrs.evolve(state, what=what, share=None if share is None else min(1.0, max(0.0, share))), ()
        case Left(caller_id):
            takers = tuple(taker for taker in state.takers if taker.caller_id != caller_id)
            return attrs.evolve(state, takers=takers, leavers=_without(state.leavers, caller_id)), ()
        case Wanted():
            return _wanted(state, event, now)
        case Unwanted(caller_id):
            return _unwanted(state, caller_id)
        case Ended(status, error):
            return _ended(state, status, error, now)
        case Closed():
            return _closed(state)
        case _:
            assert_never(event)


def _seen(state: State, status: BackendStatus) -> State:
    """What the engine says counts; a failure is forgotten once there is an engine, whoever brought it."""
    if status.state is BackendState.RUNNING:
        return attrs.evolve(state, phase=Phase.INSTALLED, status=status, attempts=0, retry_at=0.0, error=None)
    phase = Phase.NOT_INSTALLED if state.error is None else Phase.FAILED
    return attrs.evolve(state, phase=phase, status=status)


def _wanted(state: State, wanted: Wanted, now: float) -> tuple[State, tuple[Effect, ...]]:
    if not state.open:
        return state, (Answer(wanted.caller_id, _shutting_down()),)
    if state.phase is Phase.INSTALLING and state.cancelled:
        return attrs.evolve(state, takers=(*state.takers, wanted)), ()  # its turn comes after the removal
    if state.phase is Phase.INSTALLING:
        if wanted.version not in (None, state.version):
            error = ConflictError(
                f"{state.name} is being installed in {_version(state.version)}; ask for {_version(wanted.version)} "
                "once that is done"
            )
            return state, (Answer(wanted.caller_id, error),)
        return attrs.evolve(state, takers=(*state.takers, wanted)), ()
    if state.phase is Phase.UNINSTALLING:
        return attrs.evolve(state, takers=(*state.takers, wanted)), ()
    if state.phase is Phase.INSTALLED and wanted.version is None:
        return state, (Answer(wanted.caller_id),)
    if wanted.on_demand and state.error is not None and now < state.retry_at:
        left = state.retry_at - now
        refusal = BackendInstallError(
            f"{state.error.message} (tried {state.attempts} times; not tried again for {left:.0f} s, "
            f"or at once with `dmr backend install {state.name}`)",
            retry_after=left,
        )
        return state, (Answer(wanted.caller_id, refusal),)
    begun = attrs.evolve(
        state,
        phase=Phase.INSTALLING,
        takers=(wanted,),
        version=wanted.version,
        what=state.name,
        share=None,
        cancelled=False,
    )
    return begun, (Begin(wanted.version),)


def _unwanted(state: State, caller_id: int) -> tuple[State, tuple[Effect, ...]]:
    if not state.open:
        return state, (Answer(caller_id, _shutting_down()),)
    leaving = attrs.evolve(state, leavers=(*state.leavers, caller_id))
    if state.phase is Phase.UNINSTALLING or state.cancelled:
        return leaving, ()
    if state.phase is Phase.INSTALLING:
        error = ConflictError(f"the installation of {state.name} was cancelled: somebody asked for its removal")
        answers = tuple(Answer(taker.caller_id, error) for taker in state.takers)
        return attrs.evolve(leaving, takers=(), cancelled=True, what="cancelling", share=None), (*answers, Cancel())
    return attrs.evolve(leaving, phase=Phase.UNINSTALLING, what="removing", share=None), (Remove(),)


def _ended(state: State, status: BackendStatus, error: DmrError | None, now: float) -> tuple[State, tuple[Effect, ...]]:
    if state.phase is Phase.INSTALLING:
        return _installed(state, status, error, now)
    if state.phase is not Phase.UNINSTALLING:
        return state, ()
    rest = attrs.evolve(_at_rest(state), leavers=())
    if error is None:
        rest = attrs.evolve(rest, error=None, attempts=0, retry_at=0.0)
    done = _seen(rest, status)
    answers = tuple(Answer(caller_id, error) for caller_id in state.leavers)
    return _next_turn(attrs.evolve(done, takers=()), state.takers, answers, now)


def _installed(
    state: State, status: BackendStatus, error: DmrError | None, now: float
) -> tuple[State, tuple[Effect, ...]]:
    done = attrs.evolve(_seen(_at_rest(state), status), takers=())
    there = status.state is BackendState.RUNNING
    if not state.open:
        return done, ()
    if state.cancelled:
        return attrs.evolve(done, phase=Phase.UNINSTALLING, what="removing", takers=state.takers), (Remove(),)
    if error is None and not there:
        error = BackendInstallError(f"{state.name} was installed, but cannot be used: {status}")
    # An upgrade that failed beside an engine that still works is no reason to refuse whoever takes any version.
    answers = tuple(Answer(t.caller_id, None if there and t.version is None else error) for t in state.takers)
    if error is not None and not there:
        attempts = state.attempts + 1
        done = attrs.evolve(
            done, phase=Phase.FAILED, error=error, attempts=attempts, retry_at=now + delay_after(attempts)
        )
    return done, answers


def _next_turn(
    state: State, takers: tuple[Wanted, ...], effects: tuple[Effect, ...], now: float
) -> tuple[State, tuple[Effect, ...]]:
    """Let those who waited for the end of a removal ask again."""
    for taker in takers:
        state, more = _wanted(state, taker, now)
        effects += more
    return state, effects


def _closed(state: State) -> tuple[State, tuple[Effect, ...]]:
    waiting = (*(taker.caller_id for taker in state.takers), *state.leavers)
    effects: tuple[Effect, ...] = tuple(Answer(caller_id, _shutting_down()) for caller_id in waiting)
    if state.working and state.open:
        effects += (Cancel(),)
    return attrs.evolve(state, open=False, takers=(), leavers=()), effects


def _at_rest(state: State) -> State:
    return attrs.evolve(state, phase=Phase.NOT_INSTALLED, what="", share=None, version=None, cancelled=False)


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the service is shutting down")


def _version(version: str | None) -> str:
    return f"version {version}" if version else "its default version"


def _without(ids: tuple[int, ...], gone: int) -> tuple[int, ...]:
    return tuple(one for one in ids if one != gone)
