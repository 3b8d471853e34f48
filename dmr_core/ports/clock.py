"""Time, so that tests can own it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """Two readings and a wait. Times in seconds."""

    @abstractmethod
    def monotonic(self) -> float:
        """A reading that never goes back; only differences mean something."""

    @abstractmethod
    def time(self) -> float:
        """Seconds since the Unix epoch."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``, or raise ``CancelledError``."""
