"""Counting what happens. Recording is quick and never fails the work it counts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

__all__ = ["Metrics"]


class Metrics(Protocol):
    """Sinks for the service's own figures; times in seconds."""

    @abstractmethod
    def request(self, *, backend: str, mode: str, status: int, seconds: float) -> None:
        """An inference request was answered."""

    @abstractmethod
    def load(self, *, backend: str, outcome: str, seconds: float) -> None:
        """A load ended: ``ready``, ``failed`` or ``cancelled``."""

    @abstractmethod
    def unload(self, *, backend: str, reason: str) -> None:
        """A runner was stopped, or stopped by itself."""

    @abstractmethod
    def runners(self, *, backend: str, change: int) -> None:
        """The number of live runners changed by ``change``."""

    @abstractmethod
    def streamed(self, *, backend: str, mode: str, first: float, gap: float | None) -> None:
        """A stream ended well: ``first`` is the time to its first bytes, ``gap`` the mean time between two chunks."""

    @abstractmethod
    def waited(self, *, backend: str, outcome: str, seconds: float) -> None:
        """A request that had to wait for a runner no longer does: ``granted``, ``refused`` or ``abandoned``."""

    @abstractmethod
    def waiting(self, *, change: int) -> None:
        """The number of requests that wait for a runner changed by ``change``."""

    @abstractmethod
    def pulled(self, *, outcome: str, received: int, seconds: float) -> None:
        """A pull ended: ``completed``, ``failed`` or ``cancelled``; ``received`` is bytes over the network."""

    @abstractmethod
    def render(self) -> tuple[bytes, str]:
        """Everything counted so far, and its media type."""
