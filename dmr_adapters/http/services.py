"""What the HTTP shell serves: the services, handed over by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from dmr_core.domain.acceleration import Accelerator

if TYPE_CHECKING:
    from dmr_adapters.logs.book import LogBook
    from dmr_adapters.metrics.page import MetricsPage
    from dmr_core.domain.gpu import Detection
    from dmr_core.domain.settings import Settings
    from dmr_core.plugins import PluginInfo
    from dmr_core.ports.clock import Clock
    from dmr_core.ports.metrics import Metrics
    from dmr_core.ports.model_store import ModelStore
    from dmr_core.ports.response_store import ResponseStore
    from dmr_core.ports.transport import Transport
    from dmr_core.ports.weights_header import WeightsHeaders
    from dmr_core.services.backends import BackendService
    from dmr_core.services.catalog import CatalogService
    from dmr_core.services.creating import CreatingService
    from dmr_core.services.diagnosing import DiagnosingService
    from dmr_core.services.explaining import ExplainingService
    from dmr_core.services.exporting import ExportingService
    from dmr_core.services.health import HealthService
    from dmr_core.services.inference import InferenceService
    from dmr_core.services.loading import LoadingService
    from dmr_core.services.maintenance import MaintenanceService
    from dmr_core.services.pulling import PullingService
    from dmr_core.services.pushing import PushingService
    from dmr_core.services.recording import Recorder
    from dmr_core.services.remote_models import RemoteModelService
    from dmr_core.services.repackaging import RepackagingService
    from dmr_core.services.scheduling.scheduler import Scheduler
    from dmr_core.services.searching import SearchService

__all__ = ["Management", "Services"]


@attrs.frozen(kw_only=True)
class Management:
    """What few requests ask for: those of people who look after the service, and of who makes models."""

    maintenance: MaintenanceService
    remote_models: RemoteModelService
    searching: SearchService
    diagnosing: DiagnosingService
    explaining: ExplainingService
    metrics_page: MetricsPage
    creating: CreatingService
    headers: WeightsHeaders


@attrs.frozen(kw_only=True)
class Services:
    """Everything a request may need. Whoever built it closes it. ``management`` is made by its first use."""

    settings: Settings
    version: str
    clock: Clock
    store: ModelStore
    transport: Transport
    metrics: Metrics
    catalog: CatalogService
    pulling: PullingService
    pushing: PushingService
    loading: LoadingService
    exporting: ExportingService
    repackaging: RepackagingService
    backends: BackendService
    scheduler: Scheduler
    inference: InferenceService
    health: HealthService
    management: Callable[[], Management]
    logs: LogBook
    plugins: Callable[[], tuple[PluginInfo, ...]]
    recorder: Recorder | None = None
    responses: ResponseStore | None = None
    detections: tuple[Detection, ...] = ()
    accelerator: Accelerator = attrs.field(factory=Accelerator)
