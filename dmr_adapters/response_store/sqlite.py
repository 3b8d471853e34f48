"""Answers in an SQLite file, worked on by a thread of its own: the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from dmr_core.domain.settings import Settings
from dmr_core.errors import DmrError
from dmr_core.ports.clock import Clock
from dmr_core.ports.response_store import KeptResponse, ResponseStore

if TYPE_CHECKING:
    from dmr_adapters.response_store.database import ResponseDatabase

__all__ = ["SqliteResponseStore", "open_response_store"]

_log: Final = logging.getLogger("dmr.responses")
_SWEEP: Final = 3600.0
_T = TypeVar("_T")


def open_response_store(settings: Settings, clock: Clock, stack: AsyncExitStack) -> SqliteResponseStore | None:
    """The store of a service, which ``stack`` closes; ``None`` where nothing is to be kept."""
    if not settings.responses_lifetime:
        return None
    store = SqliteResponseStore(
        settings.models_path / ".dmr" / "responses.db",
        clock=clock,
        lifetime=settings.responses_lifetime,
        max_bytes=settings.responses_max_bytes,
    )
    store.start()
    stack.push_async_callback(store.aclose)
    return store


class SqliteResponseStore(ResponseStore):
    """Keeps answers in the file at ``path``; SQLite is imported and the file opened by the first use.

    ``lifetime`` in seconds. What is too old goes within the hour, also where nobody asks for anything: from an hour
    after :meth:`start`, if there is a file, else after the first use. Several services may share the file.
    """

    def __init__(self, path: Path, *, clock: Clock, lifetime: float, max_bytes: int) -> None:
        self._path = path
        self._clock = clock
        self._lifetime = lifetime
        self._max_bytes = max_bytes
        self._database: ResponseDatabase | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """See to what an earlier service left behind."""
        if self._path.exists():
            self._sweep_later()

    async def keep(self, response: KeptResponse) -> None:
        """See :class:`ResponseStore`."""
        now = self._clock.time()
        await self._do(lambda database: database.keep(response, now))

    async def find(self, response_id: str) -> KeptResponse | None:
        """See :class:`ResponseStore`."""
        now = self._clock.time()
        return await self._do(lambda database: database.find(response_id, now))

    async def chain(self, response_id: str, max_bytes: int) -> tuple[KeptResponse, ...]:
        """See :class:`ResponseStore`."""
        now = self._clock.time()
        return await self._do(lambda database: database.chain(response_id, max_bytes, now))

    async def remove(self, response_id: str) -> bool:
        """See :class:`ResponseStore`."""
        now = self._clock.time()
        return await self._do(lambda database: database.remove(response_id, now))

    async def aclose(self) -> None:
        """See :class:`ResponseStore`."""
        self._closed = True
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    async def _do(self, work: Callable[[ResponseDatabase], _T]) -> _T:
        if self._thread is None:
            assert not self._closed, "the store is closed"  # noqa: S101 - a bug of whoever calls
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")
        self._sweep_later()
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._opened()))

    def _opened(self) -> ResponseDatabase:
        if self._database is None:
            from dmr_adapters.response_store.database import ResponseDatabase  # noqa: PLC0415 - see the module

            self._database = ResponseDatabase(self._path, lifetime=self._lifetime, max_bytes=self._max_bytes)
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="responses-sweep")

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(_SWEEP)
            try:
                await self._do(lambda database: database.expire(self._clock.time()))
            except DmrError as exc:
                _log.warning("old responses could not be removed: %s", exc)
