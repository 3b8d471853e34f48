"""Probing for accelerators."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from dmr_core.domain.gpu import Detection

__all__ = ["GpuDetector"]


class GpuDetector(Protocol):
    """Looks for one kind of accelerator."""

    @abstractmethod
    async def detect(self) -> Detection:
        """What is there. Costs nothing where the hardware is absent, never hangs, never raises for its absence."""
