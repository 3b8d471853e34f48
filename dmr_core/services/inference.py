"""From a model's name to a leased engine: the decisions of an inference request, without its bytes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Memory
from dmr_core.domain.model import Model
from dmr_core.domain.secret import Secret
from dmr_core.errors import DmrError, InvalidReferenceError, ModelNotFoundError, RunnerActiveError
from dmr_core.ports.config_store import ConfigKey
from dmr_core.services.acceleration import AccelerationService
from dmr_core.services.backends import BackendService
from dmr_core.services.catalog import CatalogService
from dmr_core.services.configuration import ConfigurationService
from dmr_core.services.drafts import check_draft, draft_of
from dmr_core.services.memory import MemoryService
from dmr_core.services.scheduling.lease import Lease, RunnerView
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Launch, Phase
from dmr_core.services.underway import Underway

__all__ = ["ConfiguredModel", "InferenceService", "Plan"]

_log: Final = logging.getLogger("dmr.scheduler")
_MAX_PLANS: Final = 4096
_MAX_SECRETS: Final = 256


@attrs.frozen
class Plan:
    """Which runner a request goes to. ``alias`` is the name the engine would be started under.

    ``reason`` says why that backend, as a token; see :class:`~dmr_core.services.selection.Choice`.
    """

    key: RunnerKey
    alias: str
    reason: str = ""


@attrs.frozen(kw_only=True)
class ConfiguredModel:
    """Settings stored for a model."""

    backend: str
    model: Model
    mode: EngineMode
    config: EngineConfig


@attrs.define(eq=False)
class InferenceService:
    """Ties names, backends, settings and the scheduler together."""

    catalog: CatalogService
    backends: BackendService
    scheduler: Scheduler
    keep_alive: KeepAlive
    memory: MemoryService | None = None
    configuration: ConfigurationService = attrs.field(factory=ConfigurationService)
    acceleration: AccelerationService = attrs.field(factory=AccelerationService)
    _plans: dict[tuple[str, EngineMode, str | None, bool], tuple[Model, Plan]] = attrs.field(factory=dict)
    _underway: Underway = attrs.field(factory=Underway)
    _secrets: dict[Digest, Secret] = attrs.field(factory=dict, repr=False)
    _changing: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    def __attrs_post_init__(self) -> None:
        self.backends.watch(self._plans.clear)

    def plan(self, name: str, mode: EngineMode, backend: str | None, *, lenient: bool = False) -> Plan:
        """Decide where a request goes. In memory; repeated names cost two dictionary lookups.

        ``lenient`` makes ``backend`` a preference instead of an order.

        Raises:
            ModelNotFoundError, InvalidReferenceError: ``name`` names nothing.
            BackendNotFoundError, UnsupportedFormatError, BackendNotInstalledError: nobody can serve it.
            PreconditionError: its draft model is gone.
        """
        model = self.catalog.find(name)
        cached = self._plans.get((name, mode, backend, lenient))
        if cached is not None and cached[0] is model:
            return cached[1]
        stored = None if backend else self.configuration.any_of(model.id, mode)
        chosen = self.backends.choose(model, mode, backend, lenient=lenient, config=stored)
        config = self.configuration.effective((chosen.name, model.id, mode))
        draft = draft_of(self.catalog, name, config)
        plan = Plan(RunnerKey(chosen.name, model.id, mode, draft), name, chosen.reason)
        if draft is not None:
            return plan  # never remembered: the draft's name may come to mean another model
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        self._plans[name, mode, backend, lenient] = (model, plan)
        return plan

    def servable(self, plan: Plan) -> None:
        """Refuse what could not compute where it must; :meth:`lease` does so before it loads anything.

        Raises as :meth:`AccelerationService.admit`.
        """
        backend = plan.key.backend
        required = self.configuration.effective(_config_key(plan.key)).require
        self.acceleration.admit(plan.alias, required, backend, self.backends.program(backend))

    async def lease(
        self,
        plan: Plan,
        *,
        keep_alive: KeepAlive | None = None,
        patient: bool = False,
        secret: Secret | None = None,
    ) -> Lease:
        """A lease on the runner of ``plan``, loading it, and installing its engine, if need be.

        ``keep_alive`` is how long the runner is kept after this; ``None`` changes nothing about one that is there. ``patient``
        waits for as long as it takes, instead of as long as a request may. ``secret`` is for the engine, if it has to be
        started; it is kept in memory for the next start of this model.

        Raises as :meth:`Scheduler.lease` and :meth:`BackendService.ready`.
        """
        lease = self.scheduler.try_lease(plan.key)
        if lease is None:
            if secret is not None:
                self._remember(plan.key.model_id, secret)
            lease = await self._load(plan, keep_alive, math.inf if patient else None)
        if keep_alive is not None:
            for view in self.scheduler.runners():
                if view.key == plan.key and view.keep_alive != keep_alive:
                    self.scheduler.retune(view.id, keep_alive)
        return lease

    async def preload(self, plan: Plan) -> None:
        """Load a model that nobody asked for yet. Given up without ado when it is configured anew.

        Raises as :meth:`lease`.
        """
        with self._underway.preloading(_config_key(plan.key)):
            (await self.lease(plan)).release()

    async def resume(self) -> None:
        """Take back the engines that an earlier service left running, so that they are seen, and unloaded when idle."""
        for name in await self.backends.left_running():
            try:
                await self.catalog.refresh(name)
                await self.preload(self.plan(name, EngineMode.COMPLETION, None))
            except DmrError as exc:
                _log.warning("%s was left running, and cannot be taken back: %s", name, exc.message)

    async def _load(self, plan: Plan, keep_alive: KeepAlive | None, wait: float | None) -> Lease:
        await self.backends.ready(plan.key.backend)
        self.servable(plan)
        key = _config_key(plan.key)
        config = self.configuration.effective(key)
        launch = Launch(
            alias=plan.alias,
            config=config,
            keep_alive=keep_alive or config.keep_alive or self.keep_alive,
            needs=self._needs(plan.key, config),
            concurrency=config.concurrency,
            secret=self._secrets.get(plan.key.model_id),
        )
        if wait is None:  # a request may wait for as long as its engine may take to start
            wait = getattr(self.backends.get(plan.key.backend).engine, "start_timeout", None)
        with self._underway.waiting(key):
            lease = await self.scheduler.lease(plan.key, launch, wait=wait)
        now = self.configuration.effective(key)
        if (now.keep_alive, now.concurrency) != (config.keep_alive, config.concurrency):  # changed while this waited
            kept = keep_alive or now.keep_alive or self.keep_alive
            for view in (view for view in self.scheduler.runners() if view.key == plan.key):
                self.scheduler.retune(view.id, kept, concurrency=now.concurrency or 0)
        return lease

    def _remember(self, model_id: Digest, secret: Secret) -> None:
        if self._secrets.get(model_id) == secret:
            return
        while len(self._secrets) >= _MAX_SECRETS:
            del self._secrets[next(iter(self._secrets))]
        self._secrets[model_id] = secret
        self.scheduler.forgive(model_id)  # what failed with another key may be tried with this one at once

    def _needs(self, key: RunnerKey, config: EngineConfig) -> Memory:
        model = self.catalog.by_id(key.model_id)
        if self.memory is None or model is None:
            return Memory()
        draft = self.catalog.by_id(key.draft_id) if key.draft_id is not None else None
        return self.memory.needs(self.backends.get(key.backend).engine, key, model, config, draft)

    def unload(
        self, *, models: tuple[str, ...] = (), backend: str = "", everything: bool = False
    ) -> tuple[RunnerView, ...]:
        """Let runners go: all of them, those of a backend, or those of some models. Those that will go.

        Models that failed repeatedly may be tried again after this.
        """
        ids = set()
        for name in models:
            ids |= self._ids_named(name)
        for model_id in {key.model_id for key in self.scheduler.setbacks} if everything else ids:
            self.scheduler.forgive(model_id)
        chosen = [
            view
            for view in self.scheduler.runners()
            if (everything or view.key.model_id in ids or (backend and not models))
            and (not backend or view.key.backend == backend)
        ]
        self.scheduler.unload([view.id for view in chosen])
        return tuple(chosen)

    def in_use(self, model_id: Digest) -> bool:
        """Whether a runner is answering with this model now."""
        return any(view.key.model_id == model_id and view.leases for view in self.scheduler.runners())

    async def release_model(self, model_id: Digest) -> None:
        """Unload a model that is about to be removed, and wait until its engines are gone."""
        chosen = [view.id for view in self.scheduler.runners() if view.key.model_id == model_id and not view.leases]
        self.scheduler.unload(chosen, "removed")
        await self.scheduler.settled(chosen)

    async def release_backend(self, backend: str) -> None:
        """Unload every runner of a backend that is about to be removed, and wait until its engines are gone.

        Raises:
            RunnerActiveError: one is answering or loading, or a request waits for one; none was unloaded.
        """
        views = [view for view in self.scheduler.runners() if view.key.backend == backend]
        for view in views:
            if view.leases or view.phase is Phase.LOADING:
                doing = "loading" if view.phase is Phase.LOADING else "answering"
                raise RunnerActiveError(
                    f"{backend} is in use: {view.alias!r} is {doing}; try again once it is done, or unload it first"
                )
        for waiting in self.scheduler.waiting():
            if waiting.key.backend == backend:
                raise RunnerActiveError(f"{backend} is in use: a request waits for {waiting.alias!r}; try again later")
        chosen = [view.id for view in views]
        self.scheduler.unload(chosen, "uninstalled")
        await self.scheduler.settled(chosen)

    async def configure(self, name: str, mode: EngineMode, backend: str | None, change: Mapping[str, Any]) -> Plan:
        """Change the settings of a model (a merge patch); what can be changed without a restart is changed at once.

        An idle runner that would have to be restarted is unloaded. Settings outlive the service.

        Raises:
            ModelNotFoundError, BackendNotFoundError, UnsupportedFormatError: as for :meth:`plan`.
            InvalidConfigurationError: the engine refuses a setting, or there is no such draft model; nothing was changed.
            RunnerActiveError: a runner that would have to be restarted is loading or busy.
            StoreUnwritableError, StorageFullError: the settings could not be kept; nothing was changed.
        """
        async with self._changing:
            model = self.catalog.find(name)
            wanted = self.configuration.any_of(model.id, mode)
            chosen = self.backends.choose(model, mode, backend, config=wanted)
            key = (chosen.name, model.id, mode)
            config = self.configuration.changed(key, change)
            if backend is None:
                chosen = self.backends.choose(model, mode, None, config=config)
                key = (chosen.name, model.id, mode)
                config = self.configuration.changed(key, change)
            chosen.engine.check(config)
            check_draft(self.catalog, model, config)
            await self._apply({key: None if config == EngineConfig() else config}, renew="keep_alive" in change)
        self.scheduler.forgive(model.id)
        return self.plan(name, mode, backend)

    async def reset(self, name: str, mode: EngineMode | None = None, backend: str | None = None) -> int:
        """Forget settings of a model, those of one mode or one backend if named; how many there were.

        Raises:
            ModelNotFoundError, BackendNotFoundError: there is no such thing.
            RunnerActiveError: a runner that would have to be restarted is loading or busy; nothing was forgotten.
        """
        model = self.catalog.find(name)
        async with self._changing:
            keys = [
                key
                for key, _ in self.configuration.entries()
                if key[1] == model.id and mode in (None, key[2]) and backend in (None, key[0])
            ]
            if backend is not None and not keys:
                self.backends.get(backend)
            await self._apply(dict.fromkeys(keys))
        self.scheduler.forgive(model.id)
        return len(keys)

    async def forget(self, model_id: Digest) -> None:
        """Settings of a model that was removed, and what was given along for it."""
        self._secrets.pop(model_id, None)
        await self.configuration.forget(tuple(key for key, _ in self.configuration.entries() if key[1] == model_id))

    async def _apply(self, changes: Mapping[ConfigKey, EngineConfig | None], *, renew: bool = False) -> None:
        """Keep settings, or forget them (``None``), and see to the runners they are for.

        ``renew`` puts the keep-alive of a live runner back to the configured one, whatever requests said since.
        """
        then = self.configuration.after(changes)
        before = {key: self.configuration.effective(key) for key in then}
        restart = {key for key, config in then.items() if not config.launches_like(before[key])}
        if restart:
            await self._underway.give_up(restart)
            await self.scheduler.decided()
            affected = [view for view in self.scheduler.runners() if _config_key(view.key) in restart]
            self._underway.check_idle(restart, affected)
            # Before the settings are written, and in force: who asks meanwhile gets a runner that has them.
            self.scheduler.unload([view.id for view in affected], "reconfigured")
            self._plans.clear()
        for key, config in changes.items():
            await (self.configuration.forget((key,)) if config is None else self.configuration.put(key, config))
        self._plans.clear()
        await self.scheduler.decided()  # so that a keep-alive that a request has just asked for is seen
        for view in self.scheduler.runners():
            key = _config_key(view.key)
            if key in then and key not in restart:
                renewed = renew or then[key].keep_alive != before[key].keep_alive
                keep_alive = (then[key].keep_alive or self.keep_alive) if renewed else view.keep_alive
                self.scheduler.retune(view.id, keep_alive, concurrency=then[key].concurrency or 0)

    def configured(self, name: str | None = None) -> tuple[ConfiguredModel, ...]:
        """Settings stored for models that exist; those of one model if it is named."""
        ids = self._ids_named(name) if name else None
        known = {model.id: model for model in self.catalog.list()}
        return tuple(
            ConfiguredModel(backend=backend, model=known[model_id], mode=mode, config=config)
            for (backend, model_id, mode), config in self.configuration.entries()
            if model_id in known and (ids is None or model_id in ids)
        )

    def _ids_named(self, name: str) -> set[Digest]:
        """IDs ``name`` may stand for; a model that was removed meanwhile is still known by its runners' names."""
        ids = {view.key.model_id for view in self.scheduler.runners() if view.alias == name}
        try:
            ids.add(self.catalog.find(name).id)
        except (ModelNotFoundError, InvalidReferenceError):
            return ids
        return ids


def _config_key(key: RunnerKey) -> ConfigKey:
    return key.backend, key.model_id, key.mode
