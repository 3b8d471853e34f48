"""What every detector of accelerators promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from dmr_core.ports.gpu import GpuDetector

__all__ = ["GpuDetectorContract"]


class GpuDetectorContract(ABC):
    """Subclass it, and say how to make detectors of machines that are nothing but files.

    ``least`` and ``most`` say how many devices such a machine can have; every machine has a processor.
    """

    variant: ClassVar[str]
    least: ClassVar[int] = 0
    most: ClassVar[int] = 8

    @abstractmethod
    def detector(self, devices: int) -> GpuDetector:
        """A detector on a machine with this many devices."""

    @abstractmethod
    def confused(self) -> GpuDetector:
        """A detector on a machine whose driver tells nonsense."""

    async def test_a_machine_without_the_hardware_is_told_apart_with_a_reason(self) -> None:
        found = await self.detector(self.least).detect()
        assert (self.variant, self.least) == (found.variant, len(found.devices))
        assert found.present != bool(found.detail)

    async def test_one_device_is_found(self) -> None:
        found = await self.detector(1).detect()
        assert (self.variant, True, "") == (found.variant, found.present, found.detail)
        assert [device.index for device in found.devices] == [0]
        assert all(device.name for device in found.devices)

    async def test_every_device_is_found_and_counted_from_zero(self) -> None:
        found = await self.detector(self.most).detect()
        assert list(range(self.most)) == [device.index for device in found.devices]
        assert self.most == len({device.name for device in found.devices})

    async def test_memory_is_told_in_full_or_not_at_all(self) -> None:
        for device in (await self.detector(self.most).detect()).devices:
            assert device.memory_total is None or device.memory_total > 0
            assert device.memory_free is None or 0 <= device.memory_free <= (device.memory_total or 0)

    async def test_looking_twice_shows_the_same(self) -> None:
        detector = self.detector(1)
        assert await detector.detect() == await detector.detect()

    async def test_nonsense_from_a_driver_is_no_failure(self) -> None:
        assert self.variant == (await self.confused().detect()).variant
