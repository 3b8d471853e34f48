"""The metrics port on prometheus-client, with a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dmr_core.ports.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["PrometheusMetrics"]

_REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_PULL_BUCKETS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)
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
        families = self._get()
        families.unloads.labels(backend, reason).inc()
        if reason == "evicted":
            families.evictions.labels(backend).inc()

    def runners(self, *, backend: str, change: int) -> None:
        """See :class:`Metrics`."""
        self._get().runners.labels(backend).inc(change)

    def streamed(self, *, backend: str, mode: str, first: float, gap: float | None) -> None:
        """See :class:`Metrics`."""
        families = self._get()
        families.first_token_seconds.labels(backend, mode).observe(first)
        if gap is not None:
            families.inter_token_seconds.labels(backend, mode).observe(gap)

    def waited(self, *, backend: str, outcome: str, seconds: float) -> None:
        """See :class:`Metrics`."""
        self._get().wait_seconds.labels(backend, outcome).observe(seconds)

    def waiting(self, *, change: int) -> None:
        """See :class:`Metrics`."""
        self._get().queue.inc(change)

    def pulled(self, *, outcome: str, received: int, seconds: float) -> None:
        """See :class:`Metrics`."""
        families = self._get()
        families.pulls.labels(outcome).inc()
        families.pulled_bytes.inc(received)
        if outcome == "completed":
            families.pull_seconds.observe(seconds)

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
    evictions: Counter
    runners: Gauge
    first_token_seconds: Histogram
    inter_token_seconds: Histogram
    wait_seconds: Histogram
    queue: Gauge
    pulls: Counter
    pulled_bytes: Counter
    pull_seconds: Histogram

    def __init__(self, version: str) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector  # noqa: PLC0415

        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # process_…: start time, memory, processor time, descriptors
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
        self.evictions = Counter(
            "dmr_evictions", "Runners that had to make room for another model.", ["backend"], registry=registry
        )
        self.runners = Gauge(
            "dmr_runners", "Runners alive: loading, ready or stopping.", ["backend"], registry=registry
        )
        self.first_token_seconds = Histogram(
            "dmr_time_to_first_token_seconds",
            "Time from a streaming request's arrival to the first bytes of its answer.",
            labels,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.inter_token_seconds = Histogram(
            "dmr_inter_token_seconds",
            "Mean time between two chunks of a stream, one observation per stream.",
            labels,
            buckets=_GAP_BUCKETS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "dmr_queue_wait_seconds",
            "Time requests waited for a runner, by how the wait ended.",
            ["backend", "outcome"],
            buckets=_LOAD_BUCKETS,
            registry=registry,
        )
        self.queue = Gauge("dmr_queue_length", "Requests that wait for a runner.", registry=registry)
        self.pulls = Counter("dmr_pulls", "Pulls of models, by how they ended.", ["outcome"], registry=registry)
        self.pulled_bytes = Counter("dmr_pulled_bytes", "Bytes received by pulls.", registry=registry)
        self.pull_seconds = Histogram(
            "dmr_pull_duration_seconds", "Time of completed pulls.", buckets=_PULL_BUCKETS, registry=registry
        )
