"""Looking at files of a driver, which may not answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["look_within"]

_T = TypeVar("_T")


async def look_within(limit: float, look: Callable[[], _T]) -> _T:
    """What ``look`` returns or raises, from a thread of its own that nobody waits for at the end.

    A thread of the loop's pool would keep the service from ending for as long as a driver holds it.

    Raises:
        TimeoutError: it took longer than ``limit`` seconds; the thread is left behind.
    """
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[_T] = loop.create_future()

    def tell(result: _T | None, error: BaseException | None) -> None:
        if seen.done():  # nobody waits any more
            return
        if error is not None:
            seen.set_exception(error)
        else:
            seen.set_result(result)  # type: ignore[arg-type]  # there is one where there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = look()
        except BaseException as exc:  # told to who waits
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: it took that long
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="gpu-look", daemon=True).start()
    async with asyncio.timeout(limit):
        return await seen
