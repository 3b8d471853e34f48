"""What was done to the service and what came back, and the rules that say which failures had a cause.

A failure is allowed when something we did, to that very model on that very engine and at that very time, explains it,
and when it is told as such a failure should be. Everything else is wrong. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import attrs

__all__ = ["Deed", "Ledger", "Outcome"]

_BEFORE: Final = 5.0
"""Seconds after a deed for which a request may still meet what is left of the engine, on a busy machine."""

_ROW: Final = 5
_ROW_SPAN: Final = 900.0
_DEATH_CODES: Final = frozenset(
    {"engine_killed", "engine_exited", "engine_crashed", "engine_unresponsive", "upstream_error"}
)

DeedKind = Literal["kill", "freeze", "unload", "burst", "stop"]


@attrs.define
class Deed:
    """Something done on purpose: to one model on one engine, to every engine (``model`` empty), or to everything.

    It lasts until ``ended``, which is infinite while it goes on.
    """

    kind: DeedKind
    backend: str
    model: str
    began: float
    ended: float

    def concerns(self, backend: str, model: str) -> bool:
        """Whether this engine, with this model, may feel it."""
        return self.backend in ("", backend) and self.model in ("", model)

    def explains(self, began: float, ended: float) -> bool:
        """Whether a request that lasted so may have felt it."""
        return self.began <= ended and began <= self.ended + _BEFORE


@attrs.frozen(kw_only=True)
class Outcome:
    """How one request ended.

    ``status`` is 0 where there was no answer at all; ``code`` is the error's code, from the body or from the last
    event of a stream. ``problem`` says what is wrong with an answer that looks like a success.
    """

    action: str
    backend: str
    model: str
    began: float
    ended: float
    status: int = 200
    code: str = ""
    message: str = ""
    retry_after: str | None = None
    problem: str = ""
    left: bool = False
    failing: bool = False


@attrs.define
class Ledger:
    """All deeds and all outcomes. ``wrong`` holds a line for every failure nobody explains.

    ``epoch`` is the moment that times are told from.
    """

    deeds: list[Deed] = attrs.field(factory=list)
    outcomes: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)
    epoch: float = 0.0
    slowest: dict[str, float] = attrs.field(factory=dict)

    def did(self, kind: DeedKind, backend: str, model: str, began: float, ended: float | None = None) -> Deed:
        """Write down a deed; without ``ended`` it is over at once."""
        deed = Deed(kind, backend, model, began, began if ended is None else ended)
        self.deeds.append(deed)
        return deed

    def note(self, outcome: Outcome) -> str:
        """Judge an outcome, count it, and give the verdict: ``ok``, ``left``, the allowed failure, or ``WRONG``."""
        allowed = self.judge(outcome)
        verdict = "WRONG" if allowed is None else allowed
        self.outcomes[outcome.action, verdict] += 1
        self.slowest[outcome.action] = max(self.slowest.get(outcome.action, 0.0), outcome.ended - outcome.began)
        if allowed is None:
            what = outcome.problem or f"{outcome.status} {outcome.code}: {outcome.message.strip()[:300]}"
            self.fault(
                f"{outcome.action} on {outcome.backend}/{outcome.model}, from {outcome.began - self.epoch:.1f} s "
                f"to {outcome.ended - self.epoch:.1f} s: {what}"
            )
        return verdict

    def fault(self, line: str) -> None:
        """Write down something wrong that is no answer to a request."""
        self.wrong.append(line)

    def judge(self, outcome: Outcome) -> str | None:
        """The name of what happened, if it was allowed to happen; ``None`` if it was not."""
        if outcome.problem:
            return None
        if outcome.left:
            return "left"
        if outcome.code in _DEATH_CODES and self._felt(outcome, "kill", "freeze", "stop"):
            return "engine killed" if outcome.status in (200, 502) else None
        if outcome.status < 400 and not outcome.code:
            return None if outcome.failing else "ok"
        if outcome.status == 409 and outcome.action == "configure":
            return "409 in use"
        if outcome.failing and outcome.status == 502 and outcome.code in _DEATH_CODES:
            return "never starts"
        return self._judge_refusal(outcome) if outcome.status == 503 else None

    def _judge_refusal(self, outcome: Outcome) -> str | None:
        if outcome.code == "shutting_down":
            return "503 stopping" if self._felt(outcome, "stop") else None
        if not (outcome.retry_after or "").isdigit():
            return None
        match outcome.code:
            case "queue_full":
                return "503 queue full" if self._felt(outcome, "burst") else None
            case "queue_timeout":
                return "503 waited" if self._felt(outcome, "burst", "freeze") else None
            case "engine_backoff":
                return "503 back-off" if outcome.failing or self._in_a_row(outcome) >= _ROW else None
            case "unavailable":
                return "503 unloaded" if self._felt(outcome, "unload") else None
        return None

    def _felt(self, outcome: Outcome, *kinds: DeedKind) -> bool:
        return any(
            deed.kind in kinds
            and deed.concerns(outcome.backend, outcome.model)
            and deed.explains(outcome.began, outcome.ended)
            for deed in self.deeds
        )

    def _in_a_row(self, outcome: Outcome) -> int:
        """How often this engine was killed since it was last forgiven, which is as often as it may have failed."""
        concerning = [deed for deed in self.deeds if deed.concerns(outcome.backend, outcome.model)]
        pardons = [deed.began for deed in concerning if deed.kind == "unload" and deed.ended < outcome.began]
        since = max([outcome.ended - _ROW_SPAN, *pardons])
        return sum(deed.kind == "kill" and since <= deed.began <= outcome.ended for deed in concerning)
