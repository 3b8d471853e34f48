"""From a model's name to a leased engine: the decisions of an inference request, without its bytes."""

from __future__ import annotations

from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Memory
from dmr_core.domain.model import Model
from dmr_core.errors import InvalidReferenceError, ModelNotFoundError, RunnerActiveError
from dmr_core.services.backends import BackendService
from dmr_core.services.catalog import CatalogService
from dmr_core.services.memory import MemoryService
from dmr_core.services.scheduling.lease import Lease, RunnerView
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Launch, Phase

__all__ = ["ConfiguredModel", "InferenceService", "Plan"]

_MAX_PLANS: Final = 4096
_FALLBACK_MODES: Final = (EngineMode.RERANKING, EngineMode.IMAGE_GENERATION)


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
    _configs: dict[tuple[str, Digest, EngineMode], EngineConfig] = attrs.field(factory=dict)
    _plans: dict[tuple[str, EngineMode, str | None, bool], tuple[Model, Plan]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.backends.watch(self._plans.clear)

    def plan(self, name: str, mode: EngineMode, backend: str | None, *, lenient: bool = False) -> Plan:
        """Decide where a request goes. In memory; repeated names cost two dictionary lookups.

        ``lenient`` makes ``backend`` a preference instead of an order.

        Raises:
            ModelNotFoundError, InvalidReferenceError: ``name`` names nothing.
            BackendNotFoundError, UnsupportedFormatError, BackendNotInstalledError: nobody can serve it.
        """
        model = self.catalog.find(name)
        cached = self._plans.get((name, mode, backend, lenient))
        if cached is not None and cached[0] is model:
            return cached[1]
        stored = None if backend else self._any_config(model.id, mode)
        chosen = self.backends.choose(model, mode, backend, lenient=lenient, config=stored)
        config = self._config(chosen.name, model.id, mode)
        draft = self.catalog.find(config.speculative.draft_model).id if config.speculative else None
        plan = Plan(RunnerKey(chosen.name, model.id, mode, draft), name, chosen.reason)
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        self._plans[name, mode, backend, lenient] = (model, plan)
        return plan

    async def lease(self, plan: Plan, *, keep_alive: KeepAlive | None = None) -> Lease:
        """A lease on the runner of ``plan``, loading it, and installing its engine, if need be.

        ``keep_alive`` is how long the runner is kept after this; ``None`` changes nothing about a runner that is there.

        Raises as :meth:`Scheduler.lease` and :meth:`BackendService.ready`.
        """
        lease = self.scheduler.try_lease(plan.key) or await self._load(plan)
        if keep_alive is not None:
            for view in self.scheduler.runners():
                if view.key == plan.key:
                    self.scheduler.retune(view.id, keep_alive)
        return lease

    async def _load(self, plan: Plan) -> Lease:
        await self.backends.ready(plan.key.backend)
        config = self._config(plan.key.backend, plan.key.model_id, plan.key.mode)
        launch = Launch(
            alias=plan.alias,
            config=config,
            keep_alive=config.keep_alive or self.keep_alive,
            needs=self._needs(plan.key, config),
        )
        return await self.scheduler.lease(plan.key, launch)

    def _needs(self, key: RunnerKey, config: EngineConfig) -> Memory:
        model = self.catalog.by_id(key.model_id)
        if self.memory is None or model is None:
            return Memory()
        draft = self.catalog.by_id(key.draft_id) if key.draft_id is not None else None
        return self.memory.needs(self.backends.get(key.backend).engine, key, model, config, draft)

    def unload(self, *, models: tuple[str, ...] = (), backend: str = "", everything: bool = False) -> tuple[int, ...]:
        """Let runners go: all of them, those of a backend, or those of some models. The IDs of those that will go."""
        ids = set()
        for name in models:
            ids |= self._ids_named(name)
        chosen = [
            view.id
            for view in self.scheduler.runners()
            if (everything or view.key.model_id in ids or (backend and not models))
            and (not backend or view.key.backend == backend)
        ]
        self.scheduler.unload(chosen)
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

    def configure(self, name: str, mode: EngineMode, backend: str | None, config: EngineConfig) -> Plan:
        """Store settings for a model; an idle runner that has others is unloaded.

        Raises:
            ModelNotFoundError, BackendNotFoundError, UnsupportedFormatError: as for :meth:`plan`.
            InvalidConfigurationError: the engine refuses a setting; nothing was changed.
            RunnerActiveError: a runner that would have to be restarted is loading or busy.
        """
        model = self.catalog.find(name)
        chosen = self.backends.choose(model, mode, backend, config=config)
        chosen.engine.check(config)
        if config.speculative:
            self.catalog.find(config.speculative.draft_model)
        affected = [view for view in self.scheduler.runners() if self._is_of(view, chosen.name, model.id, mode)]
        before = self._config(chosen.name, model.id, mode)
        restart = not config.launches_like(before)
        if restart and any(view.leases or view.phase is not Phase.READY for view in affected):
            raise RunnerActiveError("runner already active")
        self._configs[chosen.name, model.id, mode] = config
        self._plans.clear()
        if restart:
            self.scheduler.unload([view.id for view in affected], "reconfigured")
        else:
            for view in affected:
                self.scheduler.retune(view.id, config.keep_alive or self.keep_alive)
        return self.plan(name, mode, backend)

    def configured(self, name: str | None = None) -> tuple[ConfiguredModel, ...]:
        """Settings stored for models that exist; those of one model if it is named."""
        ids = self._ids_named(name) if name else None
        known = {model.id: model for model in self.catalog.list()}
        return tuple(
            ConfiguredModel(backend=backend, model=known[model_id], mode=mode, config=config)
            for (backend, model_id, mode), config in self._configs.items()
            if model_id in known and (ids is None or model_id in ids)
        )

    def _config(self, backend: str, model_id: Digest, mode: EngineMode) -> EngineConfig:
        config = self._configs.get((backend, model_id, mode))
        if config is None and mode in _FALLBACK_MODES:
            config = self._configs.get((backend, model_id, EngineMode.COMPLETION))
        return config or EngineConfig()

    def _any_config(self, model_id: Digest, mode: EngineMode) -> EngineConfig | None:
        """Settings stored for a model, whichever backend they are for: one that refuses them is not the one to serve it."""
        return next((config for (_, id_, m), config in self._configs.items() if id_ == model_id and m is mode), None)

    def _ids_named(self, name: str) -> set[Digest]:
        """IDs ``name`` may stand for; a model that was removed meanwhile is still known by its runners' names."""
        ids = {view.key.model_id for view in self.scheduler.runners() if view.alias == name}
        try:
            ids.add(self.catalog.find(name).id)
        except (ModelNotFoundError, InvalidReferenceError):
            return ids
        return ids

    @staticmethod
    def _is_of(view: RunnerView, backend: str, model_id: Digest, mode: EngineMode) -> bool:
        return view.key.backend == backend and view.key.model_id == model_id and view.key.mode is mode
