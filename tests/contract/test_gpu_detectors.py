"""Every detector keeps the promises of the port, on machines that are nothing but files and recorded outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmr_adapters.gpu.cann import CannDetector
from dmr_adapters.gpu.cpu import CpuDetector
from dmr_adapters.gpu.cuda import CudaDetector
from dmr_adapters.gpu.musa import MusaDetector
from dmr_adapters.gpu.rocm import RocmDetector
from dmr_core.ports.gpu import GpuDetector
from dmr_core.testing.contracts.gpu import GpuDetectorContract
from tests.stand_ins.gpu_machine import (
    GARBAGE,
    GIB,
    RECORDED,
    Machine,
    ascend_table,
    mthreads_report,
    nvml_report,
    recorded,
)

_BRIEF = 0.2
"""Seconds a driver that never answers is given here."""


class _OnFiles:
    """Gives a test's instance its machine."""

    machine: Machine

    @pytest.fixture(autouse=True)
    def _machine(self, tmp_path: Path) -> None:
        self.machine = Machine(tmp_path)


class _Nvidia(_OnFiles, GpuDetectorContract):
    variant = "cuda"
    nowhere = ("/bin/sh", "-c", """echo '{"library": null, "missing": "libnvidia-ml.so.1: cannot open"}'""")

    def nvidia(self, nvml: tuple[str, ...] | None = None, smi: Path | None = None, limit: float = 8.0) -> CudaDetector:
        machine = self.machine
        return CudaDetector(
            dev=machine.dev,
            sys=machine.sys,
            proc=machine.proc,
            environ={},
            nvml=self.nowhere if nvml is None else nvml,
            smi=smi or machine.tool("nvidia-smi"),
            limit=limit,
        )

    def files(self, count: int) -> None:
        self.machine.device_files("nvidia", count, "nvidiactl", "nvidia-uvm", "nvidia-caps")

    def prints(self, text: str | bytes | Path) -> tuple[str, ...]:
        file = text if isinstance(text, Path) else self.machine.put("nvml.json", text)
        return ("/bin/sh", "-c", f'cat "{file}"')


class TestNvml(_Nvidia):
    def detector(self, devices: int) -> GpuDetector:
        if devices:
            self.files(devices)
        return self.nvidia(self.prints(json.dumps(nvml_report(devices))))

    def confused(self) -> GpuDetector:
        self.files(2)
        return self.nvidia(self.prints(GARBAGE), self.machine.tool("nvidia-smi", ("", GARBAGE)))

    def partitioned(self) -> tuple[GpuDetector, int]:
        self.files(2)
        return self.nvidia(self.prints(RECORDED / "nvml-a100-mig.json")), 2

    def without_runtime(self) -> GpuDetector:
        self.files(1)
        return CudaDetector(
            dev=self.machine.dev, environ={"PATH": ""}, nvml=self.nowhere, smi=self.machine.root / "none"
        )

    def hanging(self) -> GpuDetector:
        self.files(1)
        return self.nvidia(("/bin/sh", "-c", "sleep 600"), limit=_BRIEF)


class TestNvidiaSmi(_Nvidia):
    """The tool, where the library cannot be loaded."""

    def detector(self, devices: int) -> GpuDetector:
        if devices:
            self.files(devices)
        line = recorded("nvidia-smi-query-h100.csv").split(",", 1)[1]
        rows = "".join(
            f"{index},{line.replace('d14e2', f'd14e{index}').replace(':06.0', f':{index:02}.0')}"
            for index in range(devices)
        )
        return self.nvidia(smi=self.machine.tool("nvidia-smi", ("--query-gpu", rows)))

    def partitioned(self) -> tuple[GpuDetector, int]:
        self.files(1)
        answers = (
            ("--query-gpu", RECORDED / "nvidia-smi-query-a100-mig.csv"),
            ("-L", RECORDED / "nvidia-smi-list-a100-mig.txt"),
        )
        return self.nvidia(smi=self.machine.tool("nvidia-smi", *answers)), 2

    def without_runtime(self) -> GpuDetector:
        self.files(1)
        return self.nvidia(
            smi=self.machine.tool("nvidia-smi", ("", "NVIDIA-SMI has failed because it couldn't communicate"), code=9)
        )

    def confused(self) -> GpuDetector:
        self.files(1)
        return self.nvidia(smi=self.machine.tool("nvidia-smi", ("", "\x1b[31m0, GPU-\x07, , -1, , x, , , \n")))

    def hanging(self) -> GpuDetector:
        self.files(1)
        return self.nvidia(smi=self.machine.tool("nvidia-smi", hangs=True), limit=_BRIEF * 5)


class TestRocm(_OnFiles, GpuDetectorContract):
    variant = "rocm"

    @pytest.fixture(autouse=True)
    def _freed(self) -> Iterator[None]:
        """Threads that a driver holds are let go in the end."""
        self.held: list[Path] = []
        yield
        for file in self.held:
            os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))

    def amd(self, limit: float = 8.0) -> RocmDetector:
        machine = self.machine
        return RocmDetector(
            dev=machine.dev, sys=machine.sys, proc=machine.proc, environ={}, may_use=Path.exists, limit=limit
        )

    def hanging(self) -> GpuDetector:
        """A file of the driver that is opened and never read: as a pipe that nobody writes to."""
        self.machine.amd_gpu(1, bus=5)
        file = self.machine.sys / "class/kfd/kfd/topology/nodes/1/properties"
        file.unlink()
        os.mkfifo(file)
        self.held.append(file)
        return self.amd(limit=_BRIEF)

    def detector(self, devices: int) -> GpuDetector:
        if devices:
            self.machine.processor_node()
        for number in range(devices):
            self.machine.amd_gpu(number + 1, bus=number + 1)
        return self.amd()

    def confused(self) -> GpuDetector:
        self.machine.put("dev/kfd")
        for number in range(3):
            self.machine.put(f"sys/class/kfd/kfd/topology/nodes/{number}/properties", GARBAGE)
        self.machine.put("sys/class/kfd/kfd/topology/nodes/4/properties")
        return self.amd()

    def partitioned(self) -> tuple[GpuDetector, int]:
        for part in range(8):
            self.machine.amd_gpu(
                part + 1, bus=5, partition_bits=part << 28, vram=(192 * GIB, 16 * GIB), bank=24 * GIB, partition="CPX"
            )
        return self.amd(), 8

    def without_runtime(self) -> GpuDetector:
        self.machine.pci("0000:03:00.0", 0x1002, driver="amdgpu")
        return self.amd()


class TestMusa(_OnFiles, GpuDetectorContract):
    variant = "musa"

    def moore_threads(self, gmi: Path | None, limit: float = 8.0) -> MusaDetector:
        return MusaDetector(dev=self.machine.dev, sys=self.machine.sys, environ={"PATH": ""}, gmi=gmi, limit=limit)

    def detector(self, devices: int) -> GpuDetector:
        self.machine.device_files("mtgpu.", devices, "mtgpu", "mtgpu.ctl")
        return self.moore_threads(self.machine.tool("mthreads-gmi", ("-q --json", mthreads_report(devices))))

    def confused(self) -> GpuDetector:
        self.machine.device_files("mtgpu.", 3)
        return self.moore_threads(self.machine.tool("mthreads-gmi", ("", GARBAGE)))

    def partitioned(self) -> tuple[GpuDetector, int]:
        self.machine.device_files("mtgpu.", 1)
        report = json.loads(mthreads_report(2))
        for gpu in report["GPU"]:
            gpu["FB Memory Usage"] = {"Total": "12288MiB", "Used": "0MiB"}
        return self.moore_threads(self.machine.tool("mthreads-gmi", ("-q --json", json.dumps(report)))), 2

    def without_runtime(self) -> GpuDetector:
        self.machine.device_files("mtgpu.", 1)
        return self.moore_threads(None)

    def hanging(self) -> GpuDetector:
        self.machine.device_files("mtgpu.", 1)
        return self.moore_threads(self.machine.tool("mthreads-gmi", hangs=True), limit=_BRIEF)


class TestCann(_OnFiles, GpuDetectorContract):
    variant = "cann"

    def ascend(self, smi: Path | None, limit: float = 8.0) -> CannDetector:
        return CannDetector(dev=self.machine.dev, sys=self.machine.sys, environ={"PATH": ""}, smi=smi, limit=limit)

    def files(self, count: int) -> None:
        self.machine.device_files("davinci", count, "davinci_manager", "devmm_svm", "hisi_hdc")

    def detector(self, devices: int) -> GpuDetector:
        self.files(devices)
        return self.ascend(self.machine.tool("npu-smi", ("info", ascend_table(devices))))

    def confused(self) -> GpuDetector:
        self.files(3)
        return self.ascend(self.machine.tool("npu-smi", ("", GARBAGE)))

    def partitioned(self) -> tuple[GpuDetector, int]:
        self.files(2)
        return self.ascend(self.machine.tool("npu-smi", ("info", RECORDED / "npu-smi-310p3-duo.txt"))), 2

    def without_runtime(self) -> GpuDetector:
        self.files(1)
        return self.ascend(None)

    def hanging(self) -> GpuDetector:
        self.files(1)
        return self.ascend(self.machine.tool("npu-smi", hangs=True), limit=_BRIEF)


class TestCpu(_OnFiles, GpuDetectorContract):
    variant, least, most = "cpu", 1, 1

    def processor(self) -> CpuDetector:
        return CpuDetector(root=self.machine.root, affinity=lambda: 64)

    def detector(self, devices: int) -> GpuDetector:
        self.machine.memory(64 * GIB, 32 * GIB)
        return self.processor()

    def confused(self) -> GpuDetector:
        for path in (
            "proc/meminfo",
            "proc/cpuinfo",
            "proc/self/cgroup",
            "sys/fs/cgroup/memory.max",
            "sys/fs/cgroup/cpu.max",
        ):
            self.machine.put(path, GARBAGE)
        return self.processor()

    def partitioned(self) -> tuple[GpuDetector, int]:
        self.machine.memory(64 * GIB, 32 * GIB)
        self.machine.put("proc/self/cgroup", "0::/\n")
        self.machine.put("sys/fs/cgroup/memory.max", f"{4 * GIB}\n")
        self.machine.put("sys/fs/cgroup/memory.current", f"{GIB}\n")
        self.machine.put("sys/fs/cgroup/cpu.max", "150000 100000\n")
        return self.processor(), 1
