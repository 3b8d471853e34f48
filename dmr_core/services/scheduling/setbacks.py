"""What follows when an engine fails: try again, later, or no more until somebody does something."""

from __future__ import annotations

from typing import Final

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.errors import (
    DmrError,
    EngineBackoffError,
    EngineExitedError,
    EngineOutOfMemoryError,
    EngineStartTimeoutError,
    EngineUnusableError,
    UpstreamError,
)
from dmr_core.services.scheduling.state import Setback

__all__ = ["GIVE_UP", "STABLE", "another", "counts", "held_until_gone", "refusal", "worth_another_try"]

GIVE_UP: Final = 5
"""So many failures in a row end the attempts."""

_COOL_DOWN: Final = 300.0
"""Seconds after which one more attempt is allowed, having given up: what was wrong may have been somebody else's doing."""

_FORGOTTEN: Final = 600.0
"""Seconds after which a failure begins a new row."""

_LONGEST: Final = 60.0
STABLE: Final = 60.0
"""A runner that lived so many seconds had no setback before: its end is the first of a new row."""


def counts(error: DmrError) -> bool:
    """Whether the engine failed, rather than the request being one that cannot be met."""
    return isinstance(error, UpstreamError | EngineStartTimeoutError)


def worth_another_try(error: DmrError) -> bool:
    """Whether a load that failed so may well work at once: the engine was killed, it did not say no."""
    if isinstance(error, EngineOutOfMemoryError | EngineUnusableError):
        return False  # it would only happen again
    return isinstance(error, EngineExitedError) and error.returncode is not None and error.returncode < 0


def another(before: Setback | None, error: DmrError, now: float, *, lived: float = 0.0) -> Setback:
    """The setback after one more failure. The first is followed by an attempt at once, later ones by 1, 2, 4 … s."""
    forgotten = before is None or lived >= STABLE or now - before.at >= _FORGOTTEN
    row = 0 if before is None or forgotten else before.failures
    failures = row + 1
    delay = 0.0 if failures == 1 else min(_LONGEST, 2.0 ** (failures - 2))
    if failures >= GIVE_UP:
        delay = _COOL_DOWN
    return Setback(failures=failures, error=error, at=now, retry_at=now + delay)


def refusal(key: RunnerKey, alias: str, setback: Setback, now: float) -> EngineBackoffError | None:
    """The answer to whoever asks while attempts have ended; ``None`` while there will be another one soon."""
    if setback.failures < GIVE_UP or setback.retry_at <= now:
        return None
    left = setback.retry_at - now
    return EngineBackoffError(
        f"{alias!r} failed {setback.failures} times in a row on {key.backend} and is not started again for "
        f"{left:.0f} s. Mend the cause, then run `dmr unload {alias}` or configure it to try at once. "
        f"Last failure: {setback.error.message}",
        failures=setback.failures,
        last=setback.error,
        retry_after=left,
    )


def held_until_gone(setback: Setback, runner_ids: frozenset[int]) -> Setback:
    """The same, but no attempt before these runners are gone."""
    return attrs.evolve(setback, after=runner_ids)
