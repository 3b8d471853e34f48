"""Every memory probe keeps the promises of the port: the fake, one on a tree of files, and one on this very machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dmr_adapters.memory.probe import MachineMemoryProbe
from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.domain.memory import Footprint
from dmr_core.ports.memory import MachineMemory, MemoryProbe
from dmr_core.testing.contracts.memory_probe import MemoryProbeContract
from dmr_core.testing.fakes.memory import FakeMemoryProbe

GIB = 1 << 30
CARD = Detection(
    variant="cuda", devices=(GpuDevice(index=0, name="card", memory_total=24 * GIB, memory_free=20 * GIB),)
)


async def _engines() -> Footprint:
    return Footprint(resident=3 * GIB, anonymous=GIB)


async def _no_engines() -> None:
    return None


class TestFake(MemoryProbeContract):
    @pytest.fixture
    def probe(self) -> MemoryProbe:
        return FakeMemoryProbe(MachineMemory(total=8 * GIB, available=4 * GIB, engines=GIB))

    @pytest.fixture
    def silent(self) -> MemoryProbe:
        return FakeMemoryProbe()


class TestFiles(MemoryProbeContract):
    @pytest.fixture
    def probe(self, tmp_path: Path) -> MemoryProbe:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
        return MachineMemoryProbe(_engines, (CARD,), tmp_path)

    @pytest.fixture
    def silent(self, tmp_path: Path) -> MemoryProbe:
        return MachineMemoryProbe(_engines, (CARD,), tmp_path / "nothing")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
class TestThisMachine(TestFiles):
    @pytest.fixture
    def probe(self) -> MemoryProbe:
        return MachineMemoryProbe(_no_engines)
