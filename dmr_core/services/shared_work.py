"""Work that tells how far it is, done once however many ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from functools import partial
from typing import Final, Generic, TypeVar

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import Progress, ProgressKind
from dmr_core.errors import ShuttingDownError

__all__ = ["SharedWork"]

_QUEUED: Final = 1000  # lines that a listener may be behind

_K = TypeVar("_K", bound=Hashable)


@attrs.define(eq=False)
class _Job:
    """One running piece of work. ``latest`` is what a late listener is shown first."""

    task: asyncio.Task[None] | None = None
    listeners: set[asyncio.Queue[Progress | None]] = attrs.field(factory=set)
    latest: dict[Digest | None, Progress] = attrs.field(factory=dict)
    error: BaseException | None = None

    def end(self) -> None:
        """Tell every listener that there is no more."""
        for queue in self.listeners:
            queue.put_nowait(None)

    def tell(self, line: Progress) -> None:
        """Show every listener a line; one that reads slowly misses progress, and nothing else."""
        self.latest[line.layer.id if line.layer else None] = line
        for queue in self.listeners:
            if line.kind is not ProgressKind.PROGRESS or queue.qsize() < _QUEUED:
                queue.put_nowait(line)


class SharedWork(Generic[_K]):
    """Runs work under keys. A key asked twice at a time is one job; its last listener leaving cancels it."""

    def __init__(self, what: str) -> None:
        """``what`` the work is, for a message: ``"push"``."""
        self._what = what
        self._running: dict[_K, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing new is begun any more."""
        return self._closed

    async def follow(
        self, key: _K, begin: Callable[[], AsyncGenerator[Progress, None]]
    ) -> AsyncGenerator[Progress, None]:
        """The lines of the job under ``key``, which ``begin`` makes where none is running; then its error, if any.

        Raises (while iterating):
            ShuttingDownError: no more work is begun, or this was cut short.
        """
        job = self._running.get(key)
        if job is None:
            if self._closed:
                raise ShuttingDownError("the service is shutting down")
            job = self._running[key] = _Job()
            job.error = ShuttingDownError(f"the {self._what} was cancelled: the service is shutting down")
            job.task = asyncio.get_running_loop().create_task(self._run(job, begin()), name=self._what)
            self._tasks.add(job.task)
            job.task.add_done_callback(partial(self._ended, key, job))
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        for earlier in job.latest.values():
            queue.put_nowait(earlier)
        job.listeners.add(queue)
        try:
            while (line := await queue.get()) is not None:
                yield line
        finally:
            job.listeners.discard(queue)
            if not job.listeners and job.task is not None and not job.task.done():
                self._forget(key, job)
                job.task.cancel()
        if job.error is not None:
            raise job.error

    async def aclose(self) -> None:
        """Cancel every job; their listeners get an error that says so."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: _K, job: _Job, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step runs nothing of itself, not even a `finally`.
        self._tasks.discard(task)
        self._forget(key, job)
        job.end()

    def _forget(self, key: _K, job: _Job) -> None:
        """Let whoever asks next begin anew instead of joining a job that is ending."""
        if self._running.get(key) is job:
            del self._running[key]

    async def _run(self, job: _Job, lines: AsyncGenerator[Progress, None]) -> None:
        try:
            async with aclosing(lines):
                async for line in lines:
                    job.tell(line)
            job.error = None
        except Exception as exc:  # a bug must reach the listeners, not only the log of a task
            job.error = exc
