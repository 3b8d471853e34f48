"""Awaiting code that is not ours: whatever a plugin does, it costs its own engine and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from dmr_core.errors import DeadlineError, DmrError, UpstreamError

__all__ = ["guarded"]

_T = TypeVar("_T")
_log: Final = logging.getLogger("dmr.plugins")
_FAREWELL: Final = 30.0
"""Seconds a call that was cancelled may take to clean up, before it is left to itself."""


async def guarded(
    call: Callable[[], Awaitable[_T]],
    what: str,
    *,
    timeout: float | None = None,
    unwanted: Callable[[_T], Awaitable[object]] | None = None,
) -> _T:
    """The result of a plugin's coroutine, which is awaited in a task of its own.

    Conditions pass; everything else it raises, ``SystemExit`` included, becomes one. A call that lasts longer than
    ``timeout`` seconds is cancelled, and so is one that is awaited by somebody who is cancelled; it is waited for then.
    ``unwanted`` is given the result that comes nevertheless, so that what was made does not get lost.

    Raises:
        DeadlineError: it took longer than it may.
        UpstreamError: it raised what no caller expects; ``what`` names the call.
    """
    task = asyncio.ensure_future(_caught(call, what))
    try:
        await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        await _to_its_end(_abandon(task, what, unwanted))
        raise
    if not task.done():
        await _to_its_end(_abandon(task, what, unwanted))
        raise DeadlineError(f"{what} took longer than {timeout:g} s")
    outcome = task.result()
    if isinstance(outcome, _Failure):
        raise outcome.error
    return outcome


class _Failure:
    def __init__(self, error: DmrError) -> None:
        self.error = error


async def _caught(call: Callable[[], Awaitable[_T]], what: str) -> _T | _Failure:
    try:
        return await call()
    except DmrError as exc:
        return _Failure(exc)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _Failure(UpstreamError(f"{what} failed: it cancelled itself"))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        _log.exception("%s failed", what)
        return _Failure(UpstreamError(f"{what} failed: {type(exc).__name__}: {exc}"))


async def _abandon(
    task: asyncio.Future[_T | _Failure], what: str, unwanted: Callable[[_T], Awaitable[object]] | None
) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=_FAREWELL)
    if not done:
        _log.error("%s does not end although it was cancelled, and is left to itself", what)
        return
    if unwanted is None or task.cancelled():
        return
    outcome = task.result()
    if not isinstance(outcome, _Failure):
        await unwanted(outcome)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` however often we are cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()
