"""Figures that tests can read."""

from __future__ import annotations

from collections import Counter

from dmr_core.ports.metrics import Metrics

__all__ = ["InMemoryMetrics"]


class InMemoryMetrics(Metrics):
    """Counts by name and label values: ``counts["load", "echo", "ready"]``; ``alive`` is the number of runners.

    ``received`` is how many bytes pulls brought.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.alive = 0
        self.queued = 0
        self.received = 0

    def request(self, *, backend: str, mode: str, status: int, seconds: float) -> None:
        """See :class:`Metrics`."""
        self.counts["request", backend, mode, str(status)] += 1

    def load(self, *, backend: str, outcome: str, seconds: float) -> None:
        """See :class:`Metrics`."""
        self.counts["load", backend, outcome] += 1

    def unload(self, *, backend: str, reason: str) -> None:
        """See :class:`Metrics`."""
        self.counts["unload", backend, reason] += 1

    def runners(self, *, backend: str, change: int) -> None:
        """See :class:`Metrics`."""
        self.alive += change

    def streamed(self, *, backend: str, mode: str, first: float, gap: float | None) -> None:
        """See :class:`Metrics`."""
        self.counts["streamed", backend, mode] += 1

    def waited(self, *, backend: str, outcome: str, seconds: float) -> None:
        """See :class:`Metrics`."""
        self.counts["waited", backend, outcome] += 1

    def waiting(self, *, change: int) -> None:
        """See :class:`Metrics`."""
        self.queued += change

    def pulled(self, *, outcome: str, received: int, seconds: float) -> None:
        """See :class:`Metrics`."""
        self.counts["pulled", outcome] += 1
        self.received += received

    def render(self) -> tuple[bytes, str]:
        """See :class:`Metrics`."""
        lines = [f"{'_'.join(name)} {count}" for name, count in sorted(self.counts.items())]
        return "\n".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8"
