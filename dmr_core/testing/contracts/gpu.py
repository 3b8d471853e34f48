"""What every detector of accelerators promises."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import ClassVar, Final

from dmr_core.domain.gpu import Detection
from dmr_core.ports.gpu import GpuDetector

__all__ = ["GpuDetectorContract"]

_DEADLINE: Final = 30.0
"""Seconds in which even the slowest machine has an answer from a detector that never hangs."""

_LONGEST: Final = 4000
"""Characters of a detail that people still read."""


class GpuDetectorContract(ABC):
    """Subclass it, and say how to make detectors of machines that are nothing but files.

    ``least`` and ``most`` say how many devices such a machine can have; every machine has a processor. Machines that cannot
    be for your hardware are ``None``: the contract then asks nothing of them.
    """

    variant: ClassVar[str]
    least: ClassVar[int] = 0
    most: ClassVar[int] = 8

    @abstractmethod
    def detector(self, devices: int) -> GpuDetector:
        """A detector on a machine with this many devices."""

    @abstractmethod
    def confused(self) -> GpuDetector:
        """A detector on a machine whose driver, or tool, tells nonsense."""

    def partitioned(self) -> tuple[GpuDetector, int] | None:
        """A detector on a machine with a device that was cut up, and how many parts can be used."""
        return None

    def without_runtime(self) -> GpuDetector | None:
        """A detector on a machine whose kernel driver is there while what programs need to use it is not."""
        return None

    def hanging(self) -> GpuDetector | None:
        """A detector on a machine whose driver, or tool, never answers; make its time limit short."""
        return None

    async def test_a_machine_without_the_hardware_is_told_apart_with_a_reason(self) -> None:
        found = await self.detector(self.least).detect()
        assert (self.variant, self.least) == (found.variant, len(found.devices))
        assert found.present != bool(found.detail)

    async def test_one_device_is_found(self) -> None:
        found = await self.detector(1).detect()
        assert (self.variant, True, "") == (found.variant, found.present, found.detail)
        _check_devices(found, 1)

    async def test_every_device_is_found_and_counted_from_zero(self) -> None:
        _check_devices(await self.detector(self.most).detect(), self.most)

    async def test_looking_twice_shows_the_same(self) -> None:
        detector = self.detector(1)
        assert await detector.detect() == await detector.detect()

    async def test_many_may_look_at_once(self) -> None:
        detector = self.detector(1)
        found = await asyncio.gather(*(detector.detect() for _ in range(5)))
        assert [found[0]] * 5 == found

    async def test_nonsense_from_a_driver_is_no_failure(self) -> None:
        found = await self._look(self.confused())
        assert self.variant == found.variant
        assert found.detail, "nonsense was taken for an answer"
        _check_devices(found, len(found.devices))

    async def test_every_part_of_a_device_is_a_device_with_memory_of_its_own(self) -> None:
        case = self.partitioned()
        if case is None:
            return
        detector, parts = case
        found = await self._look(detector)
        _check_devices(found, parts)
        assert all(device.memory_total for device in found.devices)

    async def test_a_driver_without_its_runtime_is_explained(self) -> None:
        detector = self.without_runtime()
        if detector is not None:
            found = await self._look(detector)
            assert found.detail, "nobody is told what is missing"

    async def test_a_driver_that_hangs_is_given_up(self) -> None:
        detector = self.hanging()
        if detector is not None:
            found = await self._look(detector)
            assert (self.variant, False) == (found.variant, found.present)
            assert found.detail

    async def test_a_look_at_a_driver_that_hangs_can_be_cancelled(self) -> None:
        detector = self.hanging()
        if detector is not None:
            look = asyncio.ensure_future(detector.detect())
            await asyncio.sleep(0)
            look.cancel()
            async with asyncio.timeout(_DEADLINE):
                assert [isinstance(end, asyncio.CancelledError) for end in await _ends(look)] == [True]

    async def _look(self, detector: GpuDetector) -> Detection:
        async with asyncio.timeout(_DEADLINE):
            found = await detector.detect()
        assert len(found.detail) <= _LONGEST
        assert found.detail.isprintable(), "a detail is sentences on one line"
        assert not found.detail or found.detail.endswith("."), "a detail is sentences"
        return found


async def _ends(look: asyncio.Future[Detection]) -> list[Detection | BaseException]:
    return [*await asyncio.gather(look, return_exceptions=True)]


def _check_devices(found: Detection, count: int) -> None:
    assert list(range(count)) == [device.index for device in found.devices]
    assert all(device.name and device.name.isprintable() for device in found.devices)
    assert count == len({(device.uuid, device.bus, device.name) for device in found.devices}), "devices look the same"
    for device in found.devices:
        total, free, used = device.memory_total, device.memory_free, device.memory_used
        assert total is None or total > 0
        assert free is None or 0 <= free <= (total or 0)
        assert used is None or 0 <= used <= (total or 0)
