"""Which failures a soak forgives: those it caused itself, told as they should be, and no others."""

from __future__ import annotations

import math

import pytest

from tests.soak.ledger import DeedKind, Ledger, Outcome


def outcome(**changes: object) -> Outcome:
    """A chat with one model, from second 100 to 110."""
    fields = {"action": "chat", "backend": "b", "model": "m", "began": 100.0, "ended": 110.0, **changes}
    return Outcome(**fields)  # type: ignore[arg-type]


def judged(made: Outcome, *deeds: tuple[DeedKind, str, str, float, float]) -> str | None:
    ledger = Ledger()
    for deed in deeds:
        ledger.did(*deed)
    return ledger.judge(made)


def test_a_right_answer_is_fine() -> None:
    assert judged(outcome()) == "ok"


def test_a_wrong_answer_is_wrong_even_if_its_engine_was_killed() -> None:
    assert judged(outcome(problem="wrong answer"), ("kill", "b", "m", 105.0, 105.0)) is None


@pytest.mark.parametrize("status", [0, 400, 404, 409, 429, 500, 502, 503, 504, 507])
def test_no_failure_is_fine_for_no_reason(status: int) -> None:
    assert judged(outcome(status=status, code="engine_killed", retry_after="1")) is None


@pytest.mark.parametrize(
    ("deed", "allowed"),
    [
        (("kill", "b", "m", 105.0, 105.0), True),
        (("kill", "b", "m", 98.0, 98.0), True),
        (("kill", "b", "m", 90.0, 90.0), False),
        (("kill", "b", "m", 111.0, 111.0), False),
        (("kill", "b", "other", 105.0, 105.0), False),
        (("kill", "other", "m", 105.0, 105.0), False),
        (("freeze", "b", "m", 90.0, 101.0), True),
        (("unload", "b", "m", 105.0, 105.0), False),
    ],
)
def test_the_death_of_an_engine_is_fine_where_we_killed_it(
    deed: tuple[DeedKind, str, str, float, float], allowed: bool
) -> None:
    made = outcome(status=502, code="engine_killed")

    assert judged(made, deed) == ("engine killed" if allowed else None)
    assert judged(outcome(code="engine_killed"), deed) == ("engine killed" if allowed else None)


def test_an_internal_error_is_wrong_whatever_we_did() -> None:
    everything: list[tuple[DeedKind, str, str, float, float]] = [
        (kind, "", "", 0.0, math.inf) for kind in ("kill", "freeze", "unload", "burst", "stop")
    ]

    assert judged(outcome(status=500, code="internal_error"), *everything) is None
    assert judged(outcome(code="internal_error"), *everything) is None


@pytest.mark.parametrize(
    ("code", "kind", "verdict"),
    [
        ("queue_full", "burst", "503 queue full"),
        ("queue_timeout", "burst", "503 waited"),
        ("unavailable", "unload", "503 unloaded"),
    ],
)
def test_a_refusal_needs_its_cause_and_a_time_to_come_again(code: str, kind: DeedKind, verdict: str) -> None:
    deed: tuple[DeedKind, str, str, float, float] = (kind, "", "", 101.0, 109.0)

    assert judged(outcome(status=503, code=code, retry_after="2"), deed) == verdict
    assert judged(outcome(status=503, code=code), deed) is None
    assert judged(outcome(status=503, code=code, retry_after="2")) is None


def test_giving_up_is_fine_after_five_deaths_and_no_fewer() -> None:
    made = outcome(status=503, code="engine_backoff", retry_after="200")
    deaths: list[tuple[DeedKind, str, str, float, float]] = [
        ("kill", "b", "m", float(number), float(number)) for number in range(5)
    ]

    assert judged(made, *deaths) == "503 back-off"
    assert judged(made, *deaths[1:]) is None


def test_unloading_a_model_starts_the_row_anew() -> None:
    made = outcome(status=503, code="engine_backoff", retry_after="200")
    deaths: list[tuple[DeedKind, str, str, float, float]] = [
        ("kill", "b", "m", float(number), float(number)) for number in range(5)
    ]

    assert judged(made, *deaths, ("unload", "b", "m", 50.0, 51.0)) is None
    assert judged(made, *deaths, ("unload", "b", "m", 102.0, 103.0)) == "503 back-off"


def test_an_engine_that_never_starts_must_not_answer() -> None:
    assert judged(outcome(failing=True)) is None
    assert judged(outcome(failing=True, status=502, code="engine_exited")) == "never starts"
    assert judged(outcome(failing=True, status=503, code="engine_backoff", retry_after="9")) == "503 back-off"


def test_what_nobody_explains_is_written_down_and_counted() -> None:
    ledger = Ledger()

    assert ledger.note(outcome(status=502, code="engine_killed", message="killed")) == "WRONG"
    assert ledger.outcomes == {("chat", "WRONG"): 1}
    assert ledger.wrong == ["chat on b/m, from 100.0 s to 110.0 s: 502 engine_killed: killed"]
