"""What every memory probe promises."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import pytest

from dmr_core.ports.memory import MemoryProbe

__all__ = ["MemoryProbeContract"]

_DEADLINE = 5.0


class MemoryProbeContract(ABC):
    """Subclass it, and say how to make a probe of a machine that tells, and one of a machine that does not."""

    @pytest.fixture
    @abstractmethod
    def probe(self) -> MemoryProbe:
        """The probe under test."""

    @pytest.fixture
    @abstractmethod
    def silent(self) -> MemoryProbe:
        """One whose machine tells nothing."""

    async def test_a_reading_is_possible(self, probe: MemoryProbe) -> None:
        found = await probe.read()
        assert found is not None
        assert 0 <= found.available <= found.total
        assert 0 <= found.engines <= found.total
        assert (found.device_total is None) == (found.device_available is None)
        if found.device_total is not None and found.device_available is not None:
            assert 0 <= found.device_available <= found.device_total

    async def test_what_cannot_be_told_is_no_error(self, silent: MemoryProbe) -> None:
        assert await silent.read() is None

    async def test_many_may_ask_at_once(self, probe: MemoryProbe) -> None:
        async with asyncio.timeout(_DEADLINE):
            assert None not in await asyncio.gather(*(probe.read() for _ in range(20)))
