"""The metrics port on prometheus-client, with a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dmr_core.ports.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["PrometheusMetrics"]

_REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LOAD_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class PrometheusMetrics(Metrics):
    """Names and units follow Prometheus' naming page: base units, ``_total`` on counters.

    The library takes 70 ms to import, so the families are made when the first figure, or the first
    scrape, comes in.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._families: _Families | None = None

    def request(self, *, backend: str, mode: str, status: int, seconds: float) -> None:
        """See :class:`Metrics`."""
        families = self._get()
        families.requests.labels(backend, mode, str(status)).inc()
        families.request_seconds.labels(backend, mode).observe(seconds)

    def load(self, *, backend: str, outcome: str, seconds: float) -> None:
        """See :class:`Metrics`."""
        families = self._get()
        families.loads.labels(backend, outcome).inc()
        if outcome == "ready":
            families.load_seconds.labels(backend).observe(seconds)

    def unload(self, *, backend: str, reason: str) -> None:
        """See :class:`Metrics`."""
        self._get().unloads.labels(backend, reason).inc()

    def runners(self, *, backend: str, change: int) -> None:
        """See :class:`Metrics`."""
        self._get().runners.labels(backend).inc(change)

    def render(self) -> tuple[bytes, str]:
        """See :class:`Metrics`."""
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest  # noqa: PLC0415 - slow

        return generate_latest(self._get().registry), CONTENT_TYPE_PLAIN_0_0_4

    def _get(self) -> _Families:
        if self._families is None:
            self._families = _Families(self._version)
        return self._families


class _Families:
    registry: CollectorRegistry
    requests: Counter
    request_seconds: Histogram
    loads: Counter
    load_seconds: Histogram
    unloads: Counter
    runners: Gauge

    def __init__(self, version: str) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram  # noqa: PLC0415 - slow

        registry = self.registry = CollectorRegistry()
        build = Gauge("dmr_build_info", "Version of the service.", ["version"], registry=registry)
        build.labels(version).set(1)
        labels = ["backend", "mode"]
        self.requests = Counter(
            "dmr_requests", "Inference requests answered, by HTTP status.", [*labels, "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "dmr_request_duration_seconds",
            "Time from the request's arrival to the last byte of the answer.",
            labels,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.loads = Counter(
            "dmr_loads", "Attempts to load a model, by how they ended.", ["backend", "outcome"], registry=registry
        )
        self.load_seconds = Histogram(
            "dmr_load_duration_seconds",
            "Time from the decision to load to the first healthy answer.",
            ["backend"],
            buckets=_LOAD_BUCKETS,
            registry=registry,
        )
        self.unloads = Counter(
            "dmr_unloads", "Runners that ended, by reason.", ["backend", "reason"], registry=registry
        )
        self.runners = Gauge(
            "dmr_runners", "Runners alive: loading, ready or stopping.", ["backend"], registry=registry
        )
