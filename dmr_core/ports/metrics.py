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
    def render(self) -> tuple[bytes, str]:
        """Everything counted so far, and its media type."""
