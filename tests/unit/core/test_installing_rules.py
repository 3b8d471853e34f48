"""The rules of installing: a table of what follows from what, and sequences nobody thought of."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.errors import BackendInstallError, ConflictError, DmrError, RunnerActiveError, ShuttingDownError
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
from dmr_core.services.installing.rules import apply, delay_after

THERE = BackendStatus(BackendState.RUNNING, "engine 1.0")
ABSENT = BackendStatus(BackendState.NOT_INSTALLED, "no binary")
BROKEN = BackendStatus(BackendState.ERROR, "import failed")
FAILURE = BackendInstallError("no network")
NEW = State(name="x")


def after(*events: Event, state: State = NEW, now: float = 0.0) -> tuple[State, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = apply(state, event, now)
        effects += more
    return state, effects


def brief(effects: list[Effect]) -> list[object]:
    """Effects with errors as their class."""
    return [
        (effect.caller_id, type(effect.error) if effect.error else None) if isinstance(effect, Answer) else effect
        for effect in effects
    ]


@pytest.mark.parametrize(
    ("events", "phase", "effects"),
    [
        ((), Phase.UNKNOWN, []),
        ((Seen(THERE),), Phase.INSTALLED, []),
        ((Seen(ABSENT),), Phase.NOT_INSTALLED, []),
        ((Seen(BROKEN),), Phase.NOT_INSTALLED, []),
        ((Seen(THERE), Seen(ABSENT)), Phase.NOT_INSTALLED, []),
        # installing
        ((Seen(THERE), Wanted(1)), Phase.INSTALLED, [(1, None)]),
        ((Seen(THERE), Wanted(1, "2")), Phase.INSTALLING, [Begin("2")]),
        ((Seen(ABSENT), Wanted(1)), Phase.INSTALLING, [Begin(None)]),
        ((Wanted(1), Wanted(2), Ended(THERE)), Phase.INSTALLED, [Begin(None), (1, None), (2, None)]),
        ((Wanted(1), Left(1), Ended(THERE)), Phase.INSTALLED, [Begin(None)]),
        ((Wanted(1, "2"), Wanted(2, "2"), Wanted(3), Ended(THERE)), Phase.INSTALLED,
         [Begin("2"), (1, None), (2, None), (3, None)]),
        ((Wanted(1, "2"), Wanted(2, "3")), Phase.INSTALLING, [Begin("2"), (2, ConflictError)]),
        ((Wanted(1), Seen(THERE)), Phase.INSTALLING, [Begin(None)]),
        ((Wanted(1), Ended(ABSENT, FAILURE)), Phase.FAILED, [Begin(None), (1, BackendInstallError)]),
        ((Wanted(1), Ended(ABSENT)), Phase.FAILED, [Begin(None), (1, BackendInstallError)]),
        ((Seen(THERE), Wanted(1, "2"), Ended(THERE, FAILURE)), Phase.INSTALLED, [Begin("2"), (1, BackendInstallError)]),
        ((Seen(THERE), Wanted(1, "2"), Wanted(2), Ended(THERE, FAILURE)), Phase.INSTALLED,
         [Begin("2"), (1, BackendInstallError), (2, None)]),
        # after a failure
        ((Wanted(1), Ended(ABSENT, FAILURE), Wanted(2, on_demand=True)), Phase.FAILED,
         [Begin(None), (1, BackendInstallError), (2, BackendInstallError)]),
        ((Wanted(1), Ended(ABSENT, FAILURE), Wanted(2)), Phase.INSTALLING,
         [Begin(None), (1, BackendInstallError), Begin(None)]),
        ((Wanted(1), Ended(ABSENT, FAILURE), Seen(THERE)), Phase.INSTALLED, [Begin(None), (1, BackendInstallError)]),
        ((Wanted(1), Ended(ABSENT, FAILURE), Seen(ABSENT)), Phase.FAILED, [Begin(None), (1, BackendInstallError)]),
        # removing
        ((Seen(THERE), Unwanted(1)), Phase.UNINSTALLING, [Remove()]),
        ((Seen(THERE), Unwanted(1), Unwanted(2), Ended(ABSENT)), Phase.NOT_INSTALLED, [Remove(), (1, None), (2, None)]),
        ((Seen(THERE), Unwanted(1), Left(1), Ended(ABSENT)), Phase.NOT_INSTALLED, [Remove()]),
        ((Seen(THERE), Unwanted(1), Ended(THERE, FAILURE)), Phase.INSTALLED, [Remove(), (1, BackendInstallError)]),
        ((Seen(THERE), Unwanted(1), Ended(THERE, RunnerActiveError("busy"))), Phase.INSTALLED,
         [Remove(), (1, RunnerActiveError)]),
        ((Seen(THERE), Unwanted(1), Wanted(2), Ended(ABSENT)), Phase.INSTALLING, [Remove(), (1, None), Begin(None)]),
        ((Seen(THERE), Unwanted(1), Wanted(2), Ended(THERE, FAILURE)), Phase.INSTALLED,
         [Remove(), (1, BackendInstallError), (2, None)]),
        ((Wanted(1), Ended(ABSENT, FAILURE), Unwanted(2), Ended(ABSENT)), Phase.NOT_INSTALLED,
         [Begin(None), (1, BackendInstallError), Remove(), (2, None)]),
        # removing what is being installed
        ((Wanted(1), Unwanted(2)), Phase.INSTALLING, [Begin(None), (1, ConflictError), Cancel()]),
        ((Wanted(1), Unwanted(2), Ended(ABSENT, FAILURE)), Phase.UNINSTALLING,
         [Begin(None), (1, ConflictError), Cancel(), Remove()]),
        ((Wanted(1), Unwanted(2), Left(2), Ended(ABSENT, FAILURE), Ended(ABSENT)), Phase.NOT_INSTALLED,
         [Begin(None), (1, ConflictError), Cancel(), Remove()]),
        ((Wanted(1), Unwanted(2), Wanted(3), Ended(ABSENT, FAILURE), Ended(ABSENT)), Phase.INSTALLING,
         [Begin(None), (1, ConflictError), Cancel(), Remove(), (2, None), Begin(None)]),
        # stopping
        ((Wanted(1), Closed(), Ended(ABSENT, FAILURE)), Phase.NOT_INSTALLED,
         [Begin(None), (1, ShuttingDownError), Cancel()]),
        ((Seen(THERE), Unwanted(1), Wanted(2), Closed(), Ended(ABSENT)), Phase.NOT_INSTALLED,
         [Remove(), (2, ShuttingDownError), (1, ShuttingDownError), Cancel()]),
        ((Closed(), Wanted(1), Unwanted(2)), Phase.UNKNOWN, [(1, ShuttingDownError), (2, ShuttingDownError)]),
        ((Wanted(1), Unwanted(2), Closed(), Ended(ABSENT, FAILURE)), Phase.NOT_INSTALLED,
         [Begin(None), (1, ConflictError), Cancel(), (2, ShuttingDownError), Cancel()]),
        # what comes too late
        ((Seen(THERE), Ended(ABSENT, FAILURE)), Phase.INSTALLED, []),
    ],
)  # fmt: skip
def test_what_follows_from_what(events: tuple[Event, ...], phase: Phase, effects: list[object]) -> None:
    state, found = after(*events)

    assert (phase, effects) == (state.phase, brief(found))


def test_progress_is_told_only_while_installing_and_stays_within_bounds() -> None:
    state, _ = after(Wanted(1), Told("downloading", 0.5))
    assert ("downloading", 0.5) == (state.what, state.share)
    assert [1.0, 0.0, None] == [after(Told("x", share), state=state)[0].share for share in (7.0, -1.0, None)]

    assert after(Unwanted(2), Told("late", 0.9), state=state)[0].what == "cancelling"
    rested, _ = after(Ended(THERE), Told("late", 0.9), state=state)
    assert ("", None) == (rested.what, rested.share)


def test_a_new_version_beside_one_that_works_takes_nothing_away() -> None:
    upgrading, _ = after(Seen(THERE), Wanted(1, "2"))
    assert upgrading.usable
    assert not after(Seen(ABSENT), Wanted(1))[0].usable
    assert not after(Seen(THERE), Unwanted(1))[0].usable
    assert NEW.usable, "nobody has looked yet"


def test_failures_in_a_row_delay_requests_but_never_for_ever_and_a_success_forgets_them() -> None:
    assert [5, 10, 20, 40, 80, 160, 300, 300] == [delay_after(attempts) for attempts in range(1, 9)]
    state, now = NEW, 0.0
    for attempt in range(1, 10):
        state, effects = after(Wanted(attempt, on_demand=True), state=state, now=now)
        assert Begin(None) in effects
        state, _ = after(Ended(ABSENT, FAILURE), state=state, now=now)
        assert (attempt, now + delay_after(attempt)) == (state.attempts, state.retry_at)
        _, refused = after(Wanted(0, on_demand=True), state=state, now=state.retry_at - 1)
        (answer,) = refused
        assert isinstance(answer, Answer)
        assert isinstance(answer.error, BackendInstallError)
        assert answer.error.retry_after == 1
        now = state.retry_at
    state, _ = after(Wanted(1), Ended(THERE), state=state, now=now)
    assert (0, 0.0, None) == (state.attempts, state.retry_at, state.error)


# --- any sequence -----------------------------------------------------------------------------------

_STATUSES = st.sampled_from([THERE, ABSENT, BROKEN])
_ERRORS: st.SearchStrategy[DmrError | None] = st.sampled_from([None, FAILURE, RunnerActiveError("busy")])
_MOVES = st.one_of(
    st.tuples(st.just("want"), st.sampled_from([None, "1", "2"]), st.booleans()),
    st.tuples(st.just("remove"), st.none(), st.none()),
    st.tuples(st.just("leave"), st.integers(0, 30), st.none()),
    st.tuples(st.just("tell"), st.none(), st.none()),
    st.tuples(st.just("see"), _STATUSES, st.none()),
    st.tuples(st.just("end"), _STATUSES, _ERRORS),
    st.tuples(st.just("pass"), st.integers(0, 400), st.none()),
    st.tuples(st.just("close"), st.none(), st.none()),
)


@attrs.define
class World:
    """Keeps the books that the rules must not break."""

    state: State = NEW
    now: float = 0.0
    running: bool = False
    cancelled: bool = False
    waiting: set[int] = attrs.field(factory=set)
    answered: set[int] = attrs.field(factory=set)

    def apply(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.running = self.cancelled = False
        self.state, effects = apply(self.state, event, self.now)
        for effect in effects:
            match effect:
                case Begin() | Remove():
                    assert not self.running, "two pieces of work at once"
                    assert self.state.open, "work begun after the end"
                    self.running = True
                case Cancel():
                    assert self.running, "nothing to cancel"
                    self.cancelled = True
                case Answer(caller_id):
                    assert caller_id in self.waiting, "answered twice, or somebody who had left"
                    self.waiting.discard(caller_id)
                    self.answered.add(caller_id)
        assert self.running == self.state.working, "busy without work, or work nobody knows of"
        books = {taker.caller_id for taker in self.state.takers} | set(self.state.leavers)
        assert books == self.waiting, "somebody was forgotten"
        assert self.running or not self.waiting, "somebody waits for nothing"
        assert self.state.open or not self.waiting, "somebody waits after the end"
        assert self.cancelled or self.state.open or not self.running, "work goes on after the end"
        assert self.state.phase is not Phase.FAILED or self.state.error is not None


@settings(max_examples=500, deadline=None)
@given(st.lists(_MOVES, max_size=40))
def test_whatever_happens_one_thing_is_done_at_a_time_and_everybody_is_answered(
    moves: list[tuple[str, object, object]],
) -> None:
    world = World()
    for number, (kind, first, second) in enumerate(moves):
        match kind:
            case "want":
                world.waiting.add(number)
                world.apply(Wanted(number, first if isinstance(first, str) else None, bool(second)))
            case "remove":
                world.waiting.add(number)
                world.apply(Unwanted(number))
            case "leave" if isinstance(first, int) and first in world.waiting:
                world.waiting.discard(first)
                world.apply(Left(first))
            case "tell":
                world.apply(Told("downloading", 0.1))
            case "see" if isinstance(first, BackendStatus):
                world.apply(Seen(first))
            case "end" if world.running and isinstance(first, BackendStatus):
                world.apply(Ended(first, second if isinstance(second, DmrError) else None))
            case "pass" if isinstance(first, int):
                world.now += first
            case "close":
                world.apply(Closed())
    # Work that ends is all it takes: nobody waits for anything else, and no more than two more pieces of it.
    for _ in range(3):
        if world.running:
            world.apply(Ended(THERE))
    assert not world.running
    assert not world.waiting
