"""Trying again what failed for a reason that passes.

Only transient conditions are repeated: a connection that broke, and the statuses that say "later"
(408, 429, 500, 502, 503, 504). A refused connection is repeated for about half a second, long enough
for a registry that restarts its listener and short enough that a wrong port is told at once. Time-outs
are not repeated: each has already cost as long as a person waits.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import attrs

from dmr_core.errors import RegistryError, RegistryUnreachableError
from dmr_core.ports.clock import Clock

__all__ = [
    "TRANSIENT_STATUSES",
    "BrokenConnectionError",
    "RefusedConnectionError",
    "RetryPolicy",
    "TransientAnswerError",
    "retrying",
    "seconds_to_wait",
]

TRANSIENT_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})

_T = TypeVar("_T")


class RefusedConnectionError(RegistryUnreachableError):
    """Nobody listens there, or its name does not resolve."""


class BrokenConnectionError(RegistryUnreachableError):
    """The connection was reset, or ended before the answer did."""


class TransientAnswerError(RegistryError):
    """The registry asked to come back later; ``retry_after`` is in seconds where it said when."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how long. Times in seconds; ``budget`` bounds all waits of one operation together."""

    attempts: int = 5
    refused_attempts: int = 3
    first_wait: float = 0.25
    longest_wait: float = 8.0
    budget: float = 30.0
    jitter: Callable[[], float] = random.random

    def back_off(self, failures: int) -> float:
        """The wait after so many failures: doubled each time, the upper half of it random."""
        wait = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        return wait * (0.5 + self.jitter() / 2)


async def retrying(clock: Clock, policy: RetryPolicy, operation: Callable[[], Awaitable[_T]]) -> _T:
    """The result of ``operation``, called again while its failure may pass.

    A ``Retry-After`` that does not fit into what is left of the budget ends the attempts at once:
    coming earlier than asked only prolongs the refusal.

    Raises:
        RegistryError: the last failure, whatever made it.
    """
    waited = 0.0
    failures = 0
    while True:
        try:
            return await operation()
        except (RefusedConnectionError, BrokenConnectionError, TransientAnswerError) as exc:
            failures += 1
            asked = exc.retry_after if isinstance(exc, TransientAnswerError) else None
            attempts = policy.refused_attempts if isinstance(exc, RefusedConnectionError) else policy.attempts
            wait = max(policy.back_off(failures), asked or 0.0)
            if failures >= attempts or waited + wait > policy.budget:
                raise
        waited += wait
        await clock.sleep(wait)


def seconds_to_wait(header: str | None, now: float) -> float | None:
    """``Retry-After`` in seconds from ``now`` (Unix time); a number or a date (RFC 9110 §10.2.3)."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
