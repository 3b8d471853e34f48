"""What accelerators a machine has."""

from __future__ import annotations

import attrs

__all__ = ["CPU", "Detection", "GpuDevice"]

CPU = "cpu"


@attrs.frozen(kw_only=True)
class GpuDevice:
    """One accelerator; memory in bytes, ``None`` where the driver does not tell."""

    index: int
    name: str
    memory_total: int | None = None
    memory_free: int | None = None


@attrs.frozen(kw_only=True)
class Detection:
    """What one detector saw. ``detail`` says why nothing was found, or what is odd about what was."""

    variant: str
    devices: tuple[GpuDevice, ...] = ()
    detail: str = ""

    @property
    def present(self) -> bool:
        """Whether at least one device can be used."""
        return bool(self.devices)
