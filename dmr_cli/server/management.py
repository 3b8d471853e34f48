"""The rest of the composition root: what is built by its first use, and imported no earlier.

A service that starts needs the store, the scheduler and the routes. Looking after the store, searching, explaining,
packaging and Hugging Face come when somebody asks.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from ssl import SSLContext

import attrs

from dmr_adapters.http.services import Management
from dmr_adapters.metrics.page import MetricsPage
from dmr_adapters.model_store.intake import FilesystemBlobIntake
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_adapters.package_source.stored_headers import StoredWeightsHeaders
from dmr_adapters.registry.credentials import CredentialStore, IdentityToken
from dmr_adapters.registry.credentials import Login as RegistryLogin
from dmr_adapters.search.opening import open_hubs
from dmr_cli.server.demo import DemoModelSource
from dmr_core.domain.secret import Login, Secret
from dmr_core.domain.settings import Settings
from dmr_core.ports.clock import Clock
from dmr_core.ports.metrics import Metrics
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.package_source import PackageSource
from dmr_core.ports.registry import Registry
from dmr_core.ports.store_maintenance import StoreMaintenance
from dmr_core.ports.transport import Transport
from dmr_core.services.backends import BackendService
from dmr_core.services.catalog import CatalogService
from dmr_core.services.creating import BufferedBlobIntake, CreatingService
from dmr_core.services.diagnosing import DiagnosingService
from dmr_core.services.explaining import ExplainingService
from dmr_core.services.fetching import FetchingService
from dmr_core.services.hugging_face import HuggingFaceSource
from dmr_core.services.inference import InferenceService
from dmr_core.services.launching import LaunchingService
from dmr_core.services.maintenance import MaintenanceService, UnmaintainedStore
from dmr_core.services.packaging import PackagingService
from dmr_core.services.pulling import PullingService
from dmr_core.services.remote_models import RemoteModelService
from dmr_core.services.repackaging import RepackagingService
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.searching import OpenSources, SearchService

__all__ = [
    "Parts",
    "build_maintenance",
    "build_packaging",
    "build_search",
    "demo_source",
    "find_login",
    "hugging_face_source",
]


@attrs.frozen(kw_only=True)
class Parts:
    """What the management is made of. ``maintained`` says that the store is the one at the settings' path."""

    settings: Settings
    clock: Clock
    store: ModelStore
    maintained: bool
    maintenance: StoreMaintenance | None
    registry: Registry
    hub: ModelHub
    open_hubs: OpenSources | None
    tls: SSLContext | None
    transport: Transport
    metrics: Metrics
    catalog: CatalogService
    pulling: PullingService
    inference: InferenceService
    launching: LaunchingService
    backends: BackendService
    scheduler: Scheduler
    repackaging: RepackagingService
    package_source: PackageSource | None

    def build(self) -> Management:
        """Put it together."""
        settings = self.settings
        maintenance = self.maintenance or (
            build_maintenance(settings.models_path) if self.maintained else UnmaintainedStore()
        )
        searching = SearchService(self.open_hubs) if self.open_hubs else build_search(settings, self.registry, self.tls)
        return Management(
            maintenance=MaintenanceService(
                store=self.store, maintenance=maintenance, scheduler=self.scheduler, inference=self.inference
            ),
            remote_models=RemoteModelService(
                open_session=self.pulling.remote, hub=self.hub, policy=settings.references
            ),
            searching=searching,
            diagnosing=DiagnosingService(
                catalog=self.catalog,
                scheduler=self.scheduler,
                clock=self.clock,
                servable=lambda name, mode: self.inference.servable(self.inference.plan(name, mode, None)),
            ),
            explaining=ExplainingService(
                inference=self.inference,
                launching=self.launching,
                backends=self.backends,
                scheduler=self.scheduler,
                keep_alive=settings.keep_alive,
                accelerator=self.inference.acceleration.accelerator,
                keep_alive_set=bool(settings.environment.get("DMR_KEEP_ALIVE", "").strip("\"' ")),
            ),
            creating=CreatingService(
                store=self.store,
                catalog=self.catalog,
                repackaging=self.repackaging,
                source=self.package_source or FilesystemPackageSource(),
                intake=FilesystemBlobIntake(settings.models_path)
                if self.maintained
                else BufferedBlobIntake(self.store),
                clock=self.clock,
            ),
            headers=StoredWeightsHeaders(self.store),
            metrics_page=MetricsPage(
                metrics=self.metrics,
                transport=self.transport,
                runners=self.scheduler.runners,
                capacity=lambda: self.scheduler.capacity,
                metrics_path=lambda name: getattr(self.backends.get(name).engine, "metrics_path", None),
            ),
        )


async def find_login(settings: Settings, registry: str) -> Login | None:
    """What this machine logs in to ``registry`` with, for backends that have somebody else pull. Never raises."""
    store = CredentialStore(environment=settings.environment, directory=settings.docker_config)
    match await store.find(registry):
        case RegistryLogin(username, password):
            return Login(registry, username, Secret(password))
        case IdentityToken(token):
            return Login(registry, identity_token=Secret(token))
        case _:
            return None


def build_search(settings: Settings, registry: Registry, tls: SSLContext | None) -> SearchService:
    """What searches the hubs."""
    return SearchService(
        partial(
            open_hubs,
            registry=registry,
            policy=settings.references,
            docker_hub=settings.docker_hub,
            hugging_face=settings.hub_endpoint,
            tls=tls,
        )
    )


def build_maintenance(models_path: Path) -> StoreMaintenance:
    """What looks after the store at ``models_path``; works beside services, and without one."""
    return FilesystemStoreMaintenance(models_path)


def build_packaging(source: PackageSource | None = None) -> PackagingService:
    """What ``dmr package`` needs, which works without a service."""
    return PackagingService(source or FilesystemPackageSource())


def demo_source(settings: Settings, store: ModelStore, source: PackageSource | None) -> ModelSource:
    """The bundled model."""
    return DemoModelSource(store, build_packaging(source), settings.references.default_registry)


def hugging_face_source(
    store: ModelStore, hub: ModelHub, source: PackageSource | None, fetching: FetchingService, clock: Clock
) -> ModelSource:
    """Models of Hugging Face."""
    files = source or FilesystemPackageSource()
    return HuggingFaceSource(store=store, hub=hub, files=files, fetching=fetching, clock=clock)
