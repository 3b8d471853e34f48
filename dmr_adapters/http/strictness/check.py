"""The check a strict request puts before its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dmr_adapters.http.strictness.demand import Demand
from dmr_adapters.http.strictness.findings import Case, chat_cases
from dmr_adapters.http.strictness.judge import judge

__all__ = ["Check", "checker"]

Check = Callable[[bytes], Awaitable[None]]
"""Takes a whole answer.

Raises:
    AnswerViolationError: it is not what was demanded.
    InvalidRequestError: what was demanded cannot be checked.
"""


def checker(demand: Demand, cases: Callable[[Demand, bytes], list[Case]] = chat_cases) -> Check:
    """A check of answers by ``demand``."""

    async def check(content: bytes) -> None:
        await judge(cases(demand, content))

    return check
