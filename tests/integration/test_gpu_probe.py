"""The program that reads NVIDIA's library, against a library that behaves like it, and the detector around it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.gpu import nvml
from dmr_adapters.gpu.cuda import CudaDetector
from dmr_core.domain.gpu import Detection
from tests.conftest import require
from tests.stand_ins.gpu_machine import GIB, Machine

_MIB = 1 << 20
_SOURCE = Path(__file__).parents[1] / "stand_ins" / "nvml.c"
_PROGRAM = (sys.executable, "-I", "-S", str(nvml.__file__))


def library(folder: Path, *flags: str) -> Path:
    compiler = shutil.which("cc")
    require("cc", available=compiler is not None, reason="there is no C compiler to build the stand-in of NVML with")
    assert compiler is not None
    built = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", *flags, "-o", built, _SOURCE], check=True)
    return built


def read(built: Path, dev: Path = Path("/dev")) -> dict[str, Any]:
    command = [*_PROGRAM, "--library", str(built), "--dev", str(dev), "--seconds", "5"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    return found


async def detect(machine: Machine, *arguments: str, limit: float = 10.0) -> Detection:
    machine.device_files("nvidia", 2)
    detector = CudaDetector(
        dev=machine.dev,
        sys=machine.sys,
        proc=machine.proc,
        environ={},
        nvml=(*_PROGRAM, *arguments),
        smi=machine.root / "none",
        limit=limit,
    )
    return await detector.detect()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def test_the_library_is_read_field_by_field(tmp_path: Path) -> None:
    assert {
        "library": str(tmp_path / "libnvidia-ml.so.1"),
        "driver": "580.159.04",
        "devices": [
            {
                "index": 0,
                "errors": [],
                "name": "NVIDIA H100",
                "uuid": "GPU-0000",
                "memory": {"total": 81559 * _MIB, "free": 81059 * _MIB, "used": 20 * _MIB},
                "bus": "00000000:00:06.0",
                "compute": "9.0",
                "mig": False,
            },
            {
                "index": 1,
                "errors": [],
                "name": "NVIDIA H100",
                "uuid": "GPU-1111",
                "memory": {"total": 81559 * _MIB, "free": 81059 * _MIB, "used": 20 * _MIB},
                "bus": "00000000:00:07.0",
                "compute": "9.0",
                "mig": True,
                "instances": [
                    {
                        "index": 3,
                        "errors": [],
                        "name": "NVIDIA H100 MIG 1g.10gb",
                        "uuid": "MIG-aaaa",
                        "memory": {"total": 10000 * _MIB, "free": 9500 * _MIB, "used": 20 * _MIB},
                    }
                ],
            },
        ],
    } == read(library(tmp_path))


def test_a_library_of_an_older_driver_tells_memory_its_way(tmp_path: Path) -> None:
    found = read(library(tmp_path, "-DOLD"))
    assert {"total": 81559 * _MIB, "free": 81059 * _MIB, "used": 500 * _MIB} == found["devices"][0]["memory"]


def test_a_refusal_is_told_with_what_cannot_be_opened(tmp_path: Path, machine: Machine) -> None:
    found = read(library(tmp_path, "-DINIT=18"), machine.dev)
    assert {"call": "nvmlInit_v2", "code": 18, "text": "Driver/library version mismatch"} == found["error"]
    assert dict.fromkeys(("nvidiactl", "nvidia0", "nvidia-uvm"), "ENOENT") == found["refused"]


async def test_a_gpu_and_an_instance_of_another_are_two_devices(tmp_path: Path, machine: Machine) -> None:
    found = await detect(machine, "--library", str(library(tmp_path)))
    assert [("GPU-0000", ""), ("MIG-aaaa", "GPU-1111")] == [(device.uuid, device.parent) for device in found.devices]
    assert "" == found.detail


async def test_a_gpu_without_memory_of_its_own_has_the_machines(tmp_path: Path, machine: Machine) -> None:
    machine.memory(128 * GIB, 100 * GIB)
    found = await detect(machine, "--library", str(library(tmp_path, "-DUNIFIED")))
    assert (128 * GIB, 100 * GIB, True) == (
        found.devices[0].memory_total,
        found.devices[0].memory_free,
        found.devices[0].shares_host_memory,
    )
    assert "shares the machine's" in found.detail


async def test_a_library_that_hangs_is_given_up_with_its_process(tmp_path: Path, machine: Machine) -> None:
    found = await detect(machine, "--library", str(library(tmp_path, "-DHANG")), limit=1.0)
    assert not found.present
    assert "did not answer within 1 s" in found.detail


async def test_a_look_at_a_library_that_hangs_can_be_cancelled(tmp_path: Path, machine: Machine) -> None:
    look = asyncio.ensure_future(detect(machine, "--library", str(library(tmp_path, "-DHANG")), limit=60.0))
    done, _ = await asyncio.wait([look], timeout=0.3)
    assert not done
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look


async def test_a_library_that_crashes_costs_the_figures_not_the_gpus(tmp_path: Path, machine: Machine) -> None:
    found = await detect(machine, "--library", str(library(tmp_path, "-DCRASH")))
    assert [None, None] == [device.memory_total for device in found.devices]
    assert "exit status -11" in found.detail


async def test_a_machine_with_the_driver_alone_is_told_what_is_missing(machine: Machine) -> None:
    found = await detect(machine, "--library", "/nowhere/libnvidia-ml.so.1")
    assert not found.present
    assert "libnvidia-ml.so.1 is not here" in found.detail


async def test_a_mismatch_of_versions_asks_for_a_restart(tmp_path: Path, machine: Machine) -> None:
    machine.device_files("", 0, "nvidiactl", "nvidia-uvm")
    found = await detect(machine, "--library", str(library(tmp_path, "-DINIT=18")))
    assert not found.present
    assert "restart the machine" in found.detail
    assert "Driver/library version mismatch" in found.detail
