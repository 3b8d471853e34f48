"""Whether the service can do its work: what ``/readyz`` answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from dmr_core.domain.engine import BackendState
from dmr_core.services.backends import DEFAULT_BACKEND, BackendService

__all__ = ["Check", "HealthService", "backend_check"]

Check = Callable[[], Awaitable[str]]
"""Says what is wrong, ``""`` when nothing is."""

_TIMEOUT: Final = 2.0


class HealthService:
    """Runs checks, each within a time limit. A check that hangs is not started a second time."""

    def __init__(self, checks: Mapping[str, Check], *, timeout: float = _TIMEOUT) -> None:
        """``timeout`` is in seconds."""
        self._checks = dict(checks)
        self._timeout = timeout
        self._running: dict[str, asyncio.Task[str]] = {}
        self._stopping = False

    def stop(self) -> None:
        """The service winds down: it is not ready from now on."""
        self._stopping = True

    async def problems(self) -> dict[str, str]:
        """What is wrong, by the name of the check; empty when the service is ready."""
        if self._stopping:
            return {"service": "it is shutting down"}
        names = list(self._checks)
        found = await asyncio.gather(*(self._run(name) for name in names))
        return {name: problem for name, problem in zip(names, found, strict=True) if problem}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the checks."""
        return tuple(self._checks)

    async def aclose(self) -> None:
        """Give up on checks that hang."""
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str) -> str:
        task = self._running.get(name)
        if task is None or task.done():
            task = self._running[name] = asyncio.ensure_future(self._checks[name]())
        await asyncio.wait({task}, timeout=self._timeout)
        if not task.done():
            return f"no answer within {self._timeout:g} s"
        if task.cancelled():
            return "the check was cancelled"
        error = task.exception()
        return f"{type(error).__name__}: {error}" if error is not None else task.result()


def backend_check(backends: BackendService) -> Check:
    """Whether the default backend can be used; where there is no such plugin, whether any can."""

    async def check() -> str:
        statuses = await backends.statuses()
        if not statuses:
            return "there is no backend: see `dmr plugins`"
        status = statuses.get(DEFAULT_BACKEND)
        if status is not None:
            return "" if status.state is BackendState.RUNNING else f"{DEFAULT_BACKEND}: {status}"
        if any(status.state is BackendState.RUNNING for status in statuses.values()):
            return ""
        return "; ".join(f"{name}: {status}" for name, status in statuses.items())

    return check
