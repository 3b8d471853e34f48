"""A container that serves, or is about to: its output, its end, and what it calls its model."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import attrs

from dmr_backends_nim.container import FoundContainer
from dmr_backends_nim.diagnosis import ended, went_away
from dmr_backends_nim.docker_engine import DockerEngine, DockerError, DockerUnreachableError
from dmr_backends_nim.http_client import HttpClient, NoAnswerError
from dmr_backends_nim.output import ContainerOutput
from dmr_core.domain.secret import Secret
from dmr_core.errors import EngineExitedError, UpstreamError
from dmr_core.ports.engine import RunningEngine
from dmr_core.ports.transport import Endpoint

__all__ = ["RunningContainer"]

_log: Final = logging.getLogger("dmr.nim")

_LINES: Final = 200
_LAST_WORDS: Final = 2.0
"""Seconds that the rest of a container's output may take once it has ended."""

_ABSENCE: Final = 10.0
"""Seconds a Docker Engine may be away: one that is restarted is back by then."""

_PAUSE: Final = 0.5
_ASK: Final = 10.0
_MAX_LIST: Final = 1024 * 1024


@attrs.define(eq=False)
class RunningContainer(RunningEngine):
    """``made`` says that it was created or started for this; ``expected`` is the name its model is likely to have.

    ``let_go`` is called once, when nothing is wanted of it any more; it says whether the container is to be stopped: not
    where others use it too, or where it is to outlive the service.
    """

    docker: DockerEngine
    container: FoundContainer
    port: int
    made: bool
    expected: str
    let_go: Callable[[], bool]
    secrets: tuple[Secret, ...] = attrs.field(factory=tuple, repr=False)
    was_ready: bool = False
    _name: str = ""
    _output: ContainerOutput = attrs.field(init=False)
    _tasks: tuple[asyncio.Task[None], ...] = ()
    _end: asyncio.Future[EngineExitedError] = attrs.field(
        init=False, factory=lambda: asyncio.get_running_loop().create_future()
    )
    _stopping: asyncio.Task[None] | None = None

    def __attrs_post_init__(self) -> None:
        logger = logging.getLogger("dmr.engine.nim")
        self._output = ContainerOutput(logger, (*self.secrets, *self.container.keys))
        log = asyncio.create_task(self._follow(), name=f"nim-output-{self.container.name}")
        end = asyncio.create_task(self._watch(log), name=f"nim-end-{self.container.name}")
        self._tasks = (log, end)

    @property
    def endpoint(self) -> Endpoint:
        """See :class:`RunningEngine`."""
        return Endpoint(port=self.port)

    @property
    def argv(self) -> tuple[str, ...]:
        """See :class:`RunningEngine`. It is no process of ours."""
        return ()

    @property
    def served(self) -> str:
        """See :class:`RunningEngine`."""
        return self._name

    def tail(self) -> str:
        """See :class:`RunningEngine`."""
        return self._output.tail()

    async def cpu_seconds(self) -> float | None:
        """See :class:`RunningEngine`."""
        try:
            return await self.docker.cpu_seconds(self.container.id)
        except (DockerError, DockerUnreachableError):
            return None

    async def introduce(self) -> None:
        """See :class:`RunningEngine`. Asks the container which model it serves."""
        self._name = await self._served_name()
        self.was_ready = True
        _log.info("%s serves %s on 127.0.0.1:%d", self.container.name, self._name, self.port)

    async def wait(self) -> EngineExitedError:
        """See :class:`RunningEngine`."""
        return await asyncio.shield(self._end)

    async def stop(self, grace: float) -> None:
        """See :class:`RunningEngine`. A container that never was ready is removed, if it was made for this."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace), name=f"nim-stop-{self.container.name}")
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._end.done():
            self._end.set_result(EngineExitedError("nim", None, self.tail()))
        if not self.let_go():
            return
        try:
            await self.docker.stop(self.container.id, grace)
            if self.made and not self.was_ready and self.container.ours:
                await self.docker.remove(self.container.id)
        except DockerUnreachableError as exc:
            _log.warning("%s is not stopped: %s", self.container.name, exc.message)

    async def _served_name(self) -> str:
        client = HttpClient(port=self.port)
        try:
            async with client.send("GET", "/v1/models", timeout=_ASK, patience=_ASK) as answer:
                found: Any = json.loads(await answer.read(_MAX_LIST))
                status = answer.status
        except (NoAnswerError, ValueError, RecursionError) as exc:
            raise UpstreamError(f"{self.container.name} is ready, and does not say which model it serves") from exc
        listed = found.get("data") if status == 200 and isinstance(found, dict) else None
        names = [one.get("id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        known = [name for name in names if isinstance(name, str) and name]
        if not known:
            raise UpstreamError(f"{self.container.name} answered {status} to GET /v1/models, and names no model")
        return self.expected if self.expected in known else known[0]

    async def _follow(self) -> None:
        """Log what it prints. Output that cannot be had is no reason to do without the container."""
        try:
            since = _unix_time(self.container.started)
            async with self.docker.logs(self.container.id, since=since, tail=_LINES) as chunks:
                async for chunk in chunks:
                    self._output.feed(chunk)
        except (DockerError, DockerUnreachableError, NoAnswerError) as exc:
            _log.debug("the output of %s cannot be read: %s", self.container.name, exc.message)
        finally:
            self._output.end()

    async def _watch(self, log: asyncio.Task[None]) -> None:
        """See it end, whatever happens: somebody waits for that."""
        try:
            self._end.set_result(await self._seen_end(log))
        except Exception as exc:
            _log.exception("watching %s failed", self.container.name)
            self._end.set_result(went_away(type(exc).__name__, self.tail()))

    async def _seen_end(self, log: asyncio.Task[None]) -> EngineExitedError:
        gone_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            over = False
            try:
                await self.docker.ended(self.container.id)
                over = True
                found = await self.docker.container(self.container.id)
                gone_since = None
                if found is None or not FoundContainer(found).running:
                    break
            except (DockerError, DockerUnreachableError, NoAnswerError) as exc:
                # An engine that is stopped stops its containers first; one that is only restarted may let them run.
                gone_since = gone_since or loop.time()
                if over or loop.time() - gone_since > _ABSENCE:
                    return went_away(exc.message, self.tail())
            await asyncio.sleep(_PAUSE)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await asyncio.shield(log)
        return ended(None if found is None else FoundContainer(found), self.tail())


def _unix_time(text: str) -> str:
    """A time of the engine's (RFC 3339 with nanoseconds) as a Unix time; the beginning where it cannot be read."""
    try:
        return f"{datetime.fromisoformat(text[:19] + '+00:00').timestamp():.0f}"
    except ValueError:
        return "0"
