"""From a runner key to an engine that answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import attrs

from dmr_core.domain.engine import EngineConfig, RunnerKey
from dmr_core.domain.memory import Footprint
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import EngineExitedError, EngineStartTimeoutError, ModelNotFoundError, UpstreamError
from dmr_core.ports.clock import Clock
from dmr_core.ports.engine import LaunchRequest, RunningEngine
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest
from dmr_core.services.backends import BackendService
from dmr_core.services.scheduling.state import Launch

__all__ = ["LaunchingService"]

_log: Final = logging.getLogger("dmr.scheduler")
_FIRST_DELAY: Final = 0.01
_DELAY_GROWTH: Final = 1.1
_MAX_DELAY: Final = 0.25
_PROBE_TIMEOUT: Final = 5.0


@attrs.frozen(kw_only=True)
class LaunchingService:
    """Starts engines and waits until they are ready. ``start_timeout`` and ``grace`` in seconds."""

    store: ModelStore
    backends: BackendService
    transport: Transport
    clock: Clock
    start_timeout: float = 600.0
    grace: float = 5.0

    async def launch(self, key: RunnerKey, launch: Launch) -> RunningEngine:
        """Start an engine for ``key`` and return once it answers its health probe.

        Failing, or being cancelled, leaves no process behind.

        Raises:
            DmrError: why not; ``EngineExitedError`` carries the end of the engine's output.
        """
        backend = self.backends.get(key.backend)
        model = self.store.by_id(key.model_id)
        if model is None:
            raise ModelNotFoundError(launch.alias)
        request = LaunchRequest(
            model=model,
            bundle=await self.store.bundle(model.id),
            alias=launch.alias,
            mode=key.mode,
            config=_with_packaged_context(launch.config, model),
            draft=await self._draft(key),
        )
        engine = await backend.engine.start(request)
        try:
            await self._ready(engine, backend.engine.health_path, backend.name)
        except BaseException:
            # Cancellation included: the engine is ours until it has been handed over.
            await self._take_down(engine)
            raise
        return _Launched(engine, self.transport)

    async def _take_down(self, engine: RunningEngine) -> None:
        """Stop an engine to its end, however often we are cancelled meanwhile: its slot is given away after this."""
        stopping = asyncio.ensure_future(_Launched(engine, self.transport).stop(self.grace))
        while not stopping.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({stopping})
        if stopping.exception() is not None:
            _log.error("stopping %s failed", engine.endpoint, exc_info=stopping.exception())

    async def _draft(self, key: RunnerKey) -> Bundle | None:
        return await self.store.bundle(key.draft_id) if key.draft_id is not None else None

    async def _ready(self, engine: RunningEngine, path: str, backend: str) -> None:
        """Return at the first healthy answer; raise at the engine's end or when time is up, whichever is first."""
        exited = asyncio.ensure_future(engine.wait())
        probing = asyncio.ensure_future(self._probe_until_healthy(engine.endpoint, path))
        timer = asyncio.ensure_future(self.clock.sleep(self.start_timeout))
        tasks = {exited, probing, timer}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                raise exited.result()
            if probing.done():
                probing.result()
                return
            raise EngineStartTimeoutError(backend, self.start_timeout, engine.tail())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe_until_healthy(self, endpoint: Endpoint, path: str) -> None:
        delay = _FIRST_DELAY
        while not await self._healthy(endpoint, path):
            await self.clock.sleep(delay)
            delay = min(delay * _DELAY_GROWTH, _MAX_DELAY)

    async def _healthy(self, endpoint: Endpoint, path: str) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                response = await self.transport.send(endpoint, UpstreamRequest("GET", path, ((b"host", b"localhost"),)))
                try:
                    while await response.read():
                        pass
                finally:
                    await response.aclose()
        except (UpstreamError, TimeoutError):
            return False
        return response.status == 200


@attrs.frozen
class _Launched(RunningEngine):
    """A running engine whose connections are closed when it is stopped."""

    engine: RunningEngine
    transport: Transport

    @property
    def endpoint(self) -> Endpoint:
        return self.engine.endpoint

    @property
    def argv(self) -> tuple[str, ...]:
        return self.engine.argv

    @property
    def pid(self) -> int | None:
        return self.engine.pid

    def tail(self) -> str:
        return self.engine.tail()

    async def memory(self) -> Footprint | None:
        return await self.engine.memory()

    async def wait(self) -> EngineExitedError:
        return await self.engine.wait()

    async def stop(self, grace: float) -> None:
        try:
            await self.engine.stop(grace)
        finally:
            await self.transport.forget(self.endpoint)


def _with_packaged_context(config: EngineConfig, model: Model) -> EngineConfig:
    """A context size that was configured wins over the one the model was packaged with."""
    if config.context_size is not None or model.config.context_size is None:
        return config
    return attrs.evolve(config, context_size=model.config.context_size)
