"""Detectors on machines that are nothing but directories."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import ClassVar

import pytest

from dmr_adapters.gpu import plugin
from dmr_adapters.gpu.cann import CannDetector
from dmr_adapters.gpu.cpu import CpuDetector
from dmr_adapters.gpu.cuda import CudaDetector
from dmr_adapters.gpu.musa import MusaDetector
from dmr_adapters.gpu.rocm import RocmDetector
from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.ports.gpu import GpuDetector
from dmr_core.testing.contracts.gpu import GpuDetectorContract

GIB = 2**30
GARBAGE = bytes(range(256))


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An empty machine, also known to the test's instance as ``root``."""
    if request.instance is not None:
        request.instance.root = tmp_path
    return tmp_path


def put(path: Path, content: str | bytes = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def card(root: Path, number: int, total: str | bytes, used: str | bytes | None = "0\n") -> None:
    device = root / "drm" / f"card{number}" / "device"
    put(device / "mem_info_vram_total", total)
    if used is not None:
        put(device / "mem_info_vram_used", used)


def rocm(root: Path) -> RocmDetector:
    return RocmDetector(dev=root / "dev", drm=root / "drm")


def cpu(root: Path) -> CpuDetector:
    return CpuDetector(meminfo=root / "meminfo", cgroup=root / "cgroup")


class DeviceFiles(GpuDetectorContract):
    """Detectors that look at nothing but the names of device files."""

    root: Path
    kind: ClassVar[type[CudaDetector | MusaDetector | CannDetector]]
    prefix: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()

    def detector(self, devices: int) -> GpuDetector:
        (self.root / "dev").mkdir(exist_ok=True)
        for name in (*self.others, "null", *(f"{self.prefix}{number}" for number in range(devices))):
            put(self.root / "dev" / name)
        return self.kind(dev=self.root / "dev")

    def confused(self) -> GpuDetector:
        put(self.root / "dev", GARBAGE)
        return self.kind(dev=self.root / "dev")

    async def test_other_files_of_the_driver_are_no_devices(self) -> None:
        assert not (await self.detector(0).detect()).present

    async def test_the_tenth_device_comes_after_the_ninth(self) -> None:
        found = await self.detector(12).detect()
        assert [device.name.rpartition("(")[2] for device in found.devices] == [
            f"{self.prefix}{number})" for number in range(12)
        ]

    async def test_a_machine_without_device_files_at_all_has_none(self) -> None:
        assert not (await self.kind(dev=self.root / "absent").detect()).present


class TestCuda(DeviceFiles):
    variant, kind, prefix = "cuda", CudaDetector, "nvidia"
    others = ("nvidiactl", "nvidia-uvm", "nvidia-modeset", "nvidia-caps")


class TestMusa(DeviceFiles):
    variant, kind, prefix = "musa", MusaDetector, "mtgpu."
    others = ("mtgpu", "mtgpu.ctl")


class TestCann(DeviceFiles):
    variant, kind, prefix = "cann", CannDetector, "davinci"
    others = ("davinci_manager",)


class TestRocm(GpuDetectorContract):
    variant = "rocm"
    root: Path

    def detector(self, devices: int) -> GpuDetector:
        if devices:
            put(self.root / "dev" / "kfd")
        for number in range(devices):
            card(self.root, number, f"{16 * GIB}\n", f"{number * GIB}\n")
        return rocm(self.root)

    def confused(self) -> GpuDetector:
        put(self.root / "dev" / "kfd")
        card(self.root, 0, GARBAGE, GARBAGE)
        card(self.root, 1, "", None)
        return rocm(self.root)


class TestCpu(GpuDetectorContract):
    variant, least, most = "cpu", 1, 1
    root: Path

    def detector(self, devices: int) -> GpuDetector:
        put(self.root / "meminfo", "MemTotal:       1024 kB\nMemAvailable:    512 kB\n")
        return cpu(self.root)

    def confused(self) -> GpuDetector:
        put(self.root / "meminfo", GARBAGE)
        put(self.root / "cgroup" / "memory.max", GARBAGE)
        return cpu(self.root)


async def test_rocm_tells_the_memory_of_each_card_in_their_order(machine: Path) -> None:
    put(machine / "dev" / "kfd")
    card(machine, 10, f"{2 * GIB}\n", None)
    card(machine, 2, f"{8 * GIB}\n", f"{3 * GIB}\n")

    assert await rocm(machine).detect() == Detection(
        variant="rocm",
        devices=(
            GpuDevice(index=0, name="AMD GPU (card2)", memory_total=8 * GIB, memory_free=5 * GIB),
            GpuDevice(index=1, name="AMD GPU (card10)", memory_total=2 * GIB, memory_free=None),
        ),
    )


async def test_rocm_without_its_compute_device_has_no_gpu(machine: Path) -> None:
    card(machine, 0, f"{8 * GIB}")

    assert await rocm(machine).detect() == Detection(
        variant="rocm", detail="no /dev/kfd: no AMD GPU, or its compute driver is not loaded"
    )


@pytest.mark.parametrize("total", ["0\n", "", "none\n", GARBAGE])
async def test_a_card_without_memory_of_its_own_is_no_device(machine: Path, total: str | bytes) -> None:
    put(machine / "dev" / "kfd")
    card(machine, 0, total)

    assert await rocm(machine).detect() == Detection(
        variant="rocm", detail="/dev/kfd exists, but no card reports video memory"
    )


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "memory"),
    [
        ("MemTotal: 8 kB\nMemAvailable: 6 kB\n", None, None, (8192, 6144)),
        ("MemTotal: 8 kB\nMemAvailable: 6 kB\n", "max\n", "100\n", (8192, 6144)),
        ("MemTotal: 8 kB\nMemAvailable: 6 kB\n", "4096\n", "96\n", (4096, 4000)),
        ("MemTotal: 8 kB\nMemAvailable: 1 kB\n", "4096\n", "96\n", (4096, 1024)),
        ("MemTotal: 8 kB\nMemAvailable: 6 kB\n", "4096\n", None, (4096, 4096)),
        ("MemTotal: 8 kB\nMemAvailable: 6 kB\n", "1000000\n", "96\n", (8192, 6144)),
        ("MemTotal: 8 kB\n", None, None, (8192, None)),
        ("MemTotal:\nMemAvailable: much\n", None, None, (None, None)),
        (None, None, None, (None, None)),
        (None, "4096\n", "96\n", (4096, 4000)),
        ("MemTotal: ²\n", "²\n", None, (None, None)),
    ],
)
async def test_the_processor_may_use_what_its_control_group_allows(
    machine: Path, meminfo: str | None, limit: str | None, used: str | None, memory: tuple[int | None, int | None]
) -> None:
    for path, content in (("meminfo", meminfo), ("cgroup/memory.max", limit), ("cgroup/memory.current", used)):
        if content is not None:
            put(machine / path, content)
    (device,) = (await cpu(machine).detect()).devices

    assert memory == (device.memory_total, device.memory_free)
    assert device.name.startswith(f"{platform.machine()}, ")


def test_each_built_in_plugin_registers_its_own_detector() -> None:
    specs = [
        spec
        for found in (plugin.cpu, plugin.cuda, plugin.rocm, plugin.musa, plugin.cann)
        for spec in found.dmr_gpu_detectors()
    ]

    assert [
        ("cpu", CpuDetector),
        ("cuda", CudaDetector),
        ("rocm", RocmDetector),
        ("musa", MusaDetector),
        ("cann", CannDetector),
    ] == [(spec.variant, spec.factory) for spec in specs]
    assert [spec.variant for spec in sorted(specs, key=lambda spec: -spec.priority)] == [
        "cuda",
        "rocm",
        "musa",
        "cann",
        "cpu",
    ]
