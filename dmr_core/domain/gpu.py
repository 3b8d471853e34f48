"""What accelerators a machine has."""

from __future__ import annotations

import attrs

__all__ = ["CPU", "Detection", "GpuDevice"]

CPU = "cpu"


@attrs.frozen(kw_only=True)
class GpuDevice:
    """One accelerator, or one part of one that was cut up (MIG, CPX, a virtual NPU): what an engine can compute on.

    ``index`` counts the devices engines will see, from zero. Memory in bytes, ``None`` where the driver does not tell.
    ``uuid`` is the driver's lasting name for it and ``bus`` its PCI address, ``driver`` the driver's version,
    ``architecture`` what kernels must be built for (``9.0`` is a CUDA compute capability, ``gfx942`` an AMD target),
    all empty where unknown. ``parent`` is the ``uuid`` (else the ``bus``) of the whole that a part belongs to.
    ``shares_host_memory`` says that its memory is the machine's.
    """

    index: int
    name: str
    memory_total: int | None = None
    memory_free: int | None = None
    memory_used: int | None = None
    uuid: str = ""
    bus: str = ""
    driver: str = ""
    architecture: str = ""
    parent: str = ""
    shares_host_memory: bool = False


@attrs.frozen(kw_only=True)
class Detection:
    """What one detector saw.

    ``detail`` is a sentence, or a few: why nothing was found and what to do about it, or what is odd about what was found.
    """

    variant: str
    devices: tuple[GpuDevice, ...] = ()
    detail: str = ""

    @property
    def present(self) -> bool:
        """Whether at least one device can be used."""
        return bool(self.devices)
