"""The composition root: the only module that names concrete adapters."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import attrs

from dmr_adapters import __version__
from dmr_adapters.api_key_file import read_api_key
from dmr_adapters.clock import SystemClock
from dmr_adapters.config_store.file import FileConfigStore
from dmr_adapters.http.app import HttpApp
from dmr_adapters.http.server import TlsListener, bind, bind_tls, serve
from dmr_adapters.http.services import Services
from dmr_adapters.hugging_face.lazy import LazyHuggingFaceHub
from dmr_adapters.logs.book import LogBook
from dmr_adapters.logs.handler import recording
from dmr_adapters.memory.ledger import FileFootprintLedger
from dmr_adapters.memory.probe import MachineMemoryProbe
from dmr_adapters.metrics.prometheus import PrometheusMetrics
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.model_files import FilesystemModelFiles
from dmr_adapters.model_store.readiness import store_problem
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.process.redaction import Redactor
from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_adapters.registry.lazy import LazyOciRegistry
from dmr_adapters.response_store.sqlite import open_response_store
from dmr_adapters.transport.stream_transport import StreamTransport
from dmr_cli.server.contexts import engine_contexts
from dmr_cli.server.detecting import chosen, detect
from dmr_cli.server.lazy_source import DEMO_REPOSITORY, LazyModelSource
from dmr_core.domain.gpu import Detection
from dmr_core.domain.reference import HUGGING_FACE
from dmr_core.domain.settings import Settings
from dmr_core.plugins import PluginRegistry, installed_entry_points
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.clock import Clock
from dmr_core.ports.config_store import ConfigStore
from dmr_core.ports.memory import FootprintLedger, MemoryProbe
from dmr_core.ports.metrics import Metrics
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.process import ProcessSupervisor
from dmr_core.ports.registry import Registry
from dmr_core.ports.transport import Transport
from dmr_core.services.acceleration import AccelerationService
from dmr_core.services.admission import AdmissionService
from dmr_core.services.backends import BackendService
from dmr_core.services.catalog import CatalogService
from dmr_core.services.configuration import ConfigurationService
from dmr_core.services.exporting import ExportingService
from dmr_core.services.fetching import FetchingService
from dmr_core.services.health import Check, HealthService, backend_check
from dmr_core.services.inference import InferenceService
from dmr_core.services.launching import LaunchingService
from dmr_core.services.loading import LoadingService
from dmr_core.services.memory import MemoryService
from dmr_core.services.pulling import PullingService
from dmr_core.services.pushing import PushingService
from dmr_core.services.recording import Recorder
from dmr_core.services.repackaging import RepackagingService
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Limits

if TYPE_CHECKING:
    from ssl import SSLContext

    from dmr_core.ports.model_files import ModelFiles
    from dmr_core.ports.package_source import PackageSource
    from dmr_core.ports.response_store import ResponseStore
    from dmr_core.ports.store_maintenance import StoreMaintenance
    from dmr_core.services.searching import OpenSources, SearchService

__all__ = [
    "Overrides",
    "Service",
    "Services",
    "TlsListener",
    "bind",
    "bind_tls",
    "open_search",
    "open_service",
    "serve",
]

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Overrides:
    """Ports to use instead of the real ones; what tests and embedders put in."""

    store: ModelStore | None = None
    maintenance: StoreMaintenance | None = None
    registry: Registry | None = None
    hub: ModelHub | None = None
    transport: Transport | None = None
    processes: ProcessSupervisor | None = None
    package_source: PackageSource | None = None
    model_files: ModelFiles | None = None
    clock: Clock | None = None
    metrics: Metrics | None = None
    memory: MemoryProbe | None = None
    footprints: FootprintLedger | None = None
    configs: ConfigStore | None = None
    responses: ResponseStore | None = None
    open_hubs: OpenSources | None = None
    entry_points: Iterable[EntryPoint] | None = None
    backends: tuple[BackendSpec, ...] = ()


@attrs.frozen
class Service:
    """A service that runs: the ASGI application, and the services behind it."""

    app: HttpApp
    services: Services


@asynccontextmanager
async def open_service(settings: Settings, overrides: Overrides | None = None) -> AsyncIterator[Service]:
    """Build everything, and take it down again in reverse order.

    Raises:
        DmrError: what the service cannot be without is missing: the store, the runtime directory.
    """
    use = overrides or Overrides()
    async with AsyncExitStack() as stack:
        clock = use.clock or SystemClock()
        logs = LogBook()
        stack.enter_context(recording(logs, Redactor(_places(settings)), settings.log_dir))
        metrics = use.metrics or PrometheusMetrics(__version__)
        store = use.store or await FilesystemModelStore.open(settings.models_path)
        processes = use.processes or await _processes(settings, stack)
        transport = use.transport or StreamTransport()
        stack.push_async_callback(transport.aclose)
        registry = use.registry or _registry(settings, clock, stack)

        plugins = PluginRegistry.discover(
            installed_entry_points() if use.entry_points is None else use.entry_points, settings.disabled_plugins
        )
        detections = await detect(plugins, list(plugins.detectors))
        accelerator = chosen(plugins, detections, settings.gpu_override)
        specs = {**plugins.backends, **{spec.name: spec for spec in use.backends}}
        backends, sources = BackendService.build(
            specs,
            engine_contexts(settings, processes, accelerator),
            plugins.fail,
            clock=clock,
            platform=f"{sys.platform}/{platform.machine()}",
        )
        stack.push_async_callback(backends.aclose)
        for source in sources:
            stack.push_async_callback(source.aclose)
        catalog = CatalogService(store, settings.references, sources)
        await asyncio.gather(backends.refresh(), catalog.refresh())
        used = [accelerator.variant] if accelerator.variant in plugins.detectors else []
        acceleration = AccelerationService(
            accelerator=accelerator, detections=detections, look=partial(detect, plugins, used)
        )
        launching = LaunchingService(
            store=store,
            backends=backends,
            transport=transport,
            clock=clock,
            start_timeout=settings.start_timeout,
            grace=settings.stop_grace,
            health_interval=settings.health_interval,
            acceleration=acceleration,
            admission=AdmissionService(files=use.model_files or FilesystemModelFiles(), allowed=settings.trusted_code),
            sources=sources,
        )

        async def look_again() -> tuple[Detection, ...] | None:
            """Accelerators as they are now, as long as nothing of ours is on them: not before it, nor after it."""
            seen = [found.variant for found in detections if found.present and found.variant in plugins.detectors]
            found = None if scheduler.runners() else await detect(plugins, seen)
            return None if scheduler.runners() else found

        memory = _memory(settings, use, processes, detections, look_again)
        scheduler = Scheduler(
            launcher=launching.launch,
            clock=clock,
            metrics=metrics,
            limits=Limits(slots=settings.max_runners, queue=settings.max_queue, wait=settings.queue_timeout),
            grace=settings.stop_grace,
            capacity=memory.capacity if memory else None,
            on_footprint=memory.record if memory else None,
        )
        scheduler.start()
        stack.push_async_callback(scheduler.aclose)
        stack.callback(backends.leave)
        if memory is not None:
            await scheduler.measure()
        configs = use.configs or (
            FileConfigStore(settings.models_path / ".dmr" / "config.json") if not use.store else None
        )
        configuration = await ConfigurationService.open(configs) if configs else ConfigurationService()
        inference = InferenceService(
            catalog, backends, scheduler, settings.keep_alive, memory, configuration, acceleration
        )
        stack.push_async_callback(_cancelled, asyncio.create_task(inference.resume(), name="resume"))
        catalog.protect(inference.in_use, inference.release_model)
        backends.protect(inference.release_backend)
        fetching = FetchingService(store=store, clock=clock)
        hub = use.hub or _hub(settings, clock, stack)
        demo = LazyModelSource(
            lambda reference: reference.name == f"{settings.references.default_registry}/{DEMO_REPOSITORY}",
            _once(lambda management: management.demo_source(settings, store, use.package_source)),
        )
        hugging_face = LazyModelSource(
            lambda reference: reference.registry == HUGGING_FACE,
            _once(lambda management: management.hugging_face_source(store, hub, use.package_source, fetching, clock)),
        )
        pulling = PullingService(
            store=store,
            registry=registry,
            policy=settings.references,
            clock=clock,
            fetching=fetching,
            sources=(demo, *sources, hugging_face),
            max_pulls=settings.max_pulls,
            metrics=metrics,
        )
        stack.push_async_callback(pulling.aclose)
        pushing = PushingService(store=store, registry=registry, catalog=catalog, clock=clock)
        stack.push_async_callback(pushing.aclose)
        health = HealthService(_checks(settings, scheduler, backends, check_store=use.store is None))
        stack.push_async_callback(health.aclose)
        repackaging = RepackagingService(
            store=store, catalog=catalog, decode_manifest=decode_manifest, decode_config=decode_config
        )
        services = Services(
            settings=settings,
            version=__version__,
            clock=clock,
            store=store,
            transport=transport,
            metrics=metrics,
            catalog=catalog,
            pulling=pulling,
            pushing=pushing,
            loading=LoadingService(store, decode_manifest=decode_manifest, decode_config=decode_config),
            exporting=ExportingService(store=store, catalog=catalog),
            repackaging=repackaging,
            backends=backends,
            scheduler=scheduler,
            inference=inference,
            health=health,
            management=_once(
                lambda management: management.Parts(
                    settings=settings,
                    clock=clock,
                    store=store,
                    maintained=use.store is None,
                    maintenance=use.maintenance,
                    registry=registry,
                    hub=hub,
                    open_hubs=use.open_hubs,
                    tls=_tls(settings),
                    transport=transport,
                    metrics=metrics,
                    catalog=catalog,
                    pulling=pulling,
                    inference=inference,
                    launching=launching,
                    backends=backends,
                    scheduler=scheduler,
                    repackaging=repackaging,
                    package_source=use.package_source,
                ).build()
            ),
            logs=logs,
            plugins=plugins.plugins,
            recorder=Recorder(clock) if settings.record_requests else None,
            responses=use.responses or (None if use.store else open_response_store(settings, clock, stack)),
            detections=detections,
            accelerator=accelerator,
        )
        app = HttpApp(services, api_key=read_api_key(settings.api_key_file))
        stack.push_async_callback(app.aclose)
        yield Service(app, services)


def _once(make: Callable[[ModuleType], _T]) -> Callable[[], _T]:
    """What ``make`` gives from the rest of the composition root, imported and made by the first call."""

    def build() -> _T:
        from dmr_cli.server import management  # noqa: PLC0415 - see there

        return make(management)

    return cache(build)


@asynccontextmanager
async def open_search(settings: Settings) -> AsyncIterator[SearchService]:
    """What ``dmr search`` needs, which works without a service."""
    from dmr_cli.server.management import build_search  # noqa: PLC0415 - see there

    async with AsyncExitStack() as stack:
        yield build_search(settings, _registry(settings, SystemClock(), stack), _tls(settings))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _places(settings: Settings) -> dict[Path, str]:
    """Paths that are shown in logs by a name."""
    home = settings.environment.get("HOME")
    return {settings.models_path: "models", **({Path(home): "~"} if home else {})}


def _checks(
    settings: Settings, scheduler: Scheduler, backends: BackendService, *, check_store: bool
) -> dict[str, Check]:
    """What the service needs to be ready. A store that was put in by somebody else is theirs to check."""

    async def scheduling() -> str:
        return "" if scheduler.alive else "it does not run"

    checks: dict[str, Check] = {"scheduler": scheduling, "backend": backend_check(backends)}
    if check_store:
        checks["store"] = partial(store_problem, settings.models_path)
    return checks


async def _processes(settings: Settings, stack: AsyncExitStack) -> ProcessSupervisor:
    supervisor = await PosixProcessSupervisor.open(
        settings.runtime_dir, environ=settings.environment, models=settings.models_path
    )
    stack.push_async_callback(supervisor.aclose)
    return supervisor


def _registry(settings: Settings, clock: Clock, stack: AsyncExitStack) -> Registry:
    registry = LazyOciRegistry(settings, clock, _tls(settings))
    stack.push_async_callback(registry.aclose)
    return registry


def _tls(settings: Settings) -> SSLContext | None:
    """Whom to trust beside the system's authorities; checked at the start, and imported only where it is set."""
    if settings.ca_cert is None:
        return None
    from dmr_adapters.registry.trust import trusting  # noqa: PLC0415 - see above

    return trusting(settings.ca_cert)


def _hub(settings: Settings, clock: Clock, stack: AsyncExitStack) -> ModelHub:
    hub = LazyHuggingFaceHub(
        clock=clock, endpoint=settings.hub_endpoint, environment=settings.environment, tls=_tls(settings)
    )
    stack.push_async_callback(hub.aclose)
    return hub


def _memory(
    settings: Settings,
    use: Overrides,
    processes: ProcessSupervisor,
    detections: tuple[Detection, ...],
    look: Callable[[], Awaitable[tuple[Detection, ...] | None]],
) -> MemoryService | None:
    """Admission by memory; none over processes that are not real, unless a test says what they have."""
    probe = use.memory
    if probe is None and isinstance(processes, PosixProcessSupervisor):
        probe = MachineMemoryProbe(processes.memory, detections, look=look)
    if probe is None:
        return None
    ledger = use.footprints or FileFootprintLedger(settings.models_path / ".dmr" / "footprints.json")
    return MemoryService(probe, ledger, settings.memory)
