"""From a runner key to an engine that answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

import attrs

from dmr_core.domain.acceleration import GpuRequirement, Placement
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, RunnerKey
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import (
    DeadlineError,
    EngineExitedError,
    EngineStartTimeoutError,
    ModelNotFoundError,
    StorageFullError,
    StoreUnwritableError,
    UnavailableError,
)
from dmr_core.ports.clock import Clock
from dmr_core.ports.engine import LaunchRequest, RunningEngine
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.transport import Transport
from dmr_core.services.acceleration import AccelerationService
from dmr_core.services.admission import AdmissionService
from dmr_core.services.backends import Backend, BackendService
from dmr_core.services.plugin_calls import guarded
from dmr_core.services.scheduling.state import Launch
from dmr_core.services.watching import HealthProbe, WatchedEngine, explained

__all__ = ["LaunchingService"]

_log: Final = logging.getLogger("dmr.scheduler")
_FIRST_PAUSE: Final = 0.004
_SHARE: Final = 0.05
_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_LONG_START: Final = 30.0
_PROBE_TIMEOUT: Final = 5.0
_TELLING: Final = 1.0
"""Seconds in which an engine that is ready has printed where it put the model: some write their log in a thread of its own."""


@attrs.frozen(kw_only=True)
class LaunchingService:
    """Starts engines, waits until they are ready, and watches that they stay so.

    ``sources`` keep models that are not in the store.

    ``start_timeout`` and ``grace`` in seconds, as ``health_interval``, the time between two looks at an engine that is
    ready; 0 looks no more.
    """

    store: ModelStore
    backends: BackendService
    transport: Transport
    clock: Clock
    start_timeout: float = 600.0
    grace: float = 5.0
    health_interval: float = 0.0
    acceleration: AccelerationService = attrs.field(factory=AccelerationService)
    admission: AdmissionService | None = None
    sources: Sequence[ModelSource] = ()

    async def launch(self, key: RunnerKey, launch: Launch) -> RunningEngine:
        """Start an engine for ``key`` and return once it answers its health probe.

        Failing, or being cancelled, leaves no process behind.

        Raises:
            DmrError: why not; ``EngineExitedError`` has the end of the engine's output, and the cause if it is known.
        """
        backend = self.backends.get(key.backend)
        async with contextlib.AsyncExitStack() as kept:
            await self._keep(key, launch.alias, kept)
            request = await self._admitted(await self.request(key, launch.alias, launch.config), backend)
            request = attrs.evolve(request, key=launch.secret)
            limit = getattr(backend.engine, "start_timeout", None) or self.start_timeout
            started = await self._start(backend, request, limit)
            engine = WatchedEngine(
                engine=started,
                kind=backend.engine,
                backend=backend.name,
                transport=self.transport,
                clock=self.clock,
                interval=self.health_interval,
            )
            try:
                await self._ready(engine, limit)
                engine.warning = await self._placed_right(engine, request)
                await engine.introduce()
            except BaseException:
                # Cancellation included: the engine is ours until it has been handed over.
                await self._take_down(engine)
                raise
            engine.kept = kept.pop_all()
        return engine.watch()

    async def request(self, key: RunnerKey, alias: str, config: EngineConfig) -> LaunchRequest:
        """What an engine is asked for: the model unpacked, and its settings with those it was packaged with.

        Raises:
            ModelNotFoundError: the model is gone.
            DmrError: it cannot be unpacked.
        """
        model = self._model(key.model_id)
        if model is None:
            raise ModelNotFoundError(alias)
        merged = _with_packaged_context(config, model)
        return LaunchRequest(
            model=model,
            bundle=None if model.backend else await self.store.bundle(model.id),
            alias=alias,
            mode=key.mode,
            config=merged,
            draft=await self._draft(key),
            packaged=frozenset() if merged is config else frozenset({"context-size"}),
        )

    async def _admitted(self, request: LaunchRequest, backend: Backend) -> LaunchRequest:
        """The same request, which says whether code of the model may run. Raises as :meth:`AdmissionService.admit`."""
        if self.admission is None or backend.spec.reads_data_alone or request.model.backend:
            return request
        runs_code = await self.admission.admit(request.model.id, request.alias, request.bundle)
        return attrs.evolve(request, runs_code=runs_code)

    async def _keep(self, key: RunnerKey, alias: str, kept: contextlib.AsyncExitStack) -> None:
        """Have the files of the models stay for as long as the engine runs."""
        ids = [model_id for model_id in (key.model_id, key.draft_id) if model_id is not None]
        if (model := self._model(key.model_id)) is not None and model.backend:
            return  # whoever keeps it sees to it that it stays
        try:
            await kept.enter_async_context(self.store.lease(ids))
        except (StorageFullError, StoreUnwritableError, UnavailableError) as exc:
            # A full disk is no reason not to answer; what is open stays readable, whoever deletes it.
            _log.warning("%s is not protected from being removed by other processes: %s", alias, exc.message)

    def _model(self, model_id: Digest) -> Model | None:
        found = self.store.by_id(model_id)
        if found is not None:
            return found
        return next((model for source in self.sources for model in source.models() if model.id == model_id), None)

    async def _start(self, backend: Backend, request: LaunchRequest, limit: float) -> RunningEngine:
        try:
            return await guarded(
                lambda: backend.engine.start(request),
                f"{backend.name}: start()",
                timeout=limit,
                unwanted=self._take_down,
            )
        except EngineExitedError as exc:
            raise explained(backend.engine, exc) from exc
        except DeadlineError as exc:
            raise EngineStartTimeoutError(backend.name, limit) from exc

    async def _take_down(self, engine: RunningEngine) -> None:
        """Stop an engine to its end, however often we are cancelled meanwhile: its slot is given away after this."""
        stopping = asyncio.ensure_future(engine.stop(self.grace))
        while not stopping.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({stopping})
        if stopping.exception() is not None:
            _log.error("stopping %s failed", engine.endpoint, exc_info=stopping.exception())

    async def _draft(self, key: RunnerKey) -> Bundle | None:
        return await self.store.bundle(key.draft_id) if key.draft_id is not None else None

    async def _ready(self, engine: WatchedEngine, limit: float) -> None:
        """Return at the first healthy answer; raise at the engine's end or when time is up, whichever is first."""
        exited = asyncio.ensure_future(engine.wait())
        probing = asyncio.ensure_future(self._probe_until_healthy(engine))
        timer = asyncio.ensure_future(self.clock.sleep(limit))
        tasks = {exited, probing, timer}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                raise exited.result()
            if probing.done():
                probing.result()
                return
            raise EngineStartTimeoutError(engine.backend, limit, engine.tail())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _placed_right(self, engine: WatchedEngine, request: LaunchRequest) -> str:
        """What there is to warn of. Raises as :meth:`AccelerationService.verify`."""
        required = request.config.require
        placement = await self._placement(engine, patient=required not in (None, GpuRequirement.NONE))
        warning = await self.acceleration.verify(request.alias, required, engine.backend, placement)
        if warning:
            _log.warning("%s: %s", request.alias, warning)
        return warning

    async def _placement(self, engine: WatchedEngine, *, patient: bool) -> Placement | None:
        placement, waited = engine.placement(), 0.0
        while placement is None and patient and waited < _TELLING:
            await self.clock.sleep(_PAUSE)
            waited += _PAUSE
            placement = engine.placement()
        return placement

    async def _probe_until_healthy(self, engine: WatchedEngine) -> None:
        probe = HealthProbe(self.transport, engine.endpoint, engine.kind.health_path)
        began = self.clock.monotonic()
        while True:
            # Somebody else may have taken a TCP port and be well; False is no answer of ours, None is not known.
            if await probe.healthy(_PROBE_TIMEOUT) and await engine.owns_endpoint() is not False:
                return
            await self.clock.sleep(_pause(self.clock.monotonic() - began))


def _pause(elapsed: float) -> float:
    """Seconds until the next probe: what makes readiness seen late by at most 5 % of a start, and 20 ms at most.

    A probe that finds no socket costs 0.1 ms. Starts of half a minute and more are those of huge models.
    """
    if elapsed > _LONG_START:
        return _LONGEST_PAUSE
    return min(max(_SHARE * elapsed, _FIRST_PAUSE), _PAUSE)


def _with_packaged_context(config: EngineConfig, model: Model) -> EngineConfig:
    """A context size that was configured wins over the one the model was packaged with."""
    if config.context_size is not None or model.config.context_size is None:
        return config
    return attrs.evolve(config, context_size=model.config.context_size)
