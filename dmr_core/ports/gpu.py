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
        """What is there now; nothing is kept from one call to the next, so memory is as free as it says.

        Costs nothing where the hardware is absent: no process, no library. Never hangs: a driver or tool that does is
        given up after a time limit of the detector's own. Never raises: what went wrong is the detection's ``detail``.
        Cancelling it leaves no process behind.
        """
