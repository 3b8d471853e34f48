"""Running blocking file work in threads without letting go of it halfway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["finish_in_thread"]

_T = TypeVar("_T")


async def finish_in_thread(function: Callable[[], _T]) -> _T:
    """Run ``function`` in a thread, as :func:`asyncio.to_thread` does, but be cancelled only once it is done.

    A thread cannot be stopped. If the caller went on at once, it would release locks and close files
    that the thread is still using; so a cancellation waits for the step that is under way, and what
    ``function`` returns or raises is then dropped.
    """
    future = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        future.exception()  # looked at, so that nobody reports it as lost
        raise cancelled
    return future.result()
