"""AMD GPUs, and the processor, by what the kernel tells of them."""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dmr_adapters.gpu.amdgpu import read_topology
from dmr_adapters.gpu.cpu import CpuDetector
from dmr_adapters.gpu.rocm import RocmDetector
from dmr_core.domain.gpu import Detection, GpuDevice
from tests.stand_ins.gpu_machine import GARBAGE, GIB, Machine

_MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def rocm(
    machine: Machine, may_use: Callable[[Path], bool] = Path.exists, environ: Mapping[str, str] | None = None
) -> RocmDetector:
    return RocmDetector(dev=machine.dev, sys=machine.sys, proc=machine.proc, environ=environ or {}, may_use=may_use)


def cpu(machine: Machine, cores: int = 64) -> CpuDetector:
    return CpuDetector(root=machine.root, affinity=lambda: cores)


async def test_a_card_is_told_in_full(machine: Machine) -> None:
    machine.processor_node()
    machine.amd_gpu(1, bus=0xC1, minor=129, vram=(192 * GIB, 2 * GIB))
    machine.put("sys/module/amdgpu/version", "6.12.12\n")
    assert await rocm(machine).detect() == Detection(
        variant="rocm",
        devices=(
            GpuDevice(
                index=0,
                name="AMD Instinct MI300X",
                memory_total=192 * GIB,
                memory_free=190 * GIB,
                memory_used=2 * GIB,
                uuid="GPU-00000000beef0001",
                bus="0000:c1:00.0",
                driver="6.12.12",
                architecture="gfx942",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("version", "target"),
    [
        (90402, "gfx942"),
        (90010, "gfx90a"),
        (100300, "gfx1030"),
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
    ],
)
def test_targets_are_named_as_compilers_name_them(machine: Machine, version: int, target: str) -> None:
    machine.amd_gpu(1, version=version)
    assert [target] == [gpu.target for gpu in read_topology(machine.sys).gpus]


async def test_cards_are_in_the_order_of_the_compute_driver(machine: Machine) -> None:
    for node in (10, 2):
        machine.amd_gpu(node, bus=node)
    assert ["0000:02:00.0", "0000:0a:00.0"] == [device.bus for device in (await rocm(machine).detect()).devices]


async def test_a_card_without_a_name_of_its_own_has_one(machine: Machine) -> None:
    machine.amd_gpu(1, name="")
    assert ["AMD GPU"] == [device.name for device in (await rocm(machine).detect()).devices]


async def test_parts_of_a_card_share_what_is_free_on_it(machine: Machine) -> None:
    for part in range(8):
        machine.amd_gpu(
            part + 1, bus=5, partition_bits=part << 28, vram=(192 * GIB, 16 * GIB), bank=24 * GIB, partition="CPX"
        )
    found = (await rocm(machine).detect()).devices
    assert [f"AMD Instinct MI300X CPX partition {part}" for part in range(8)] == [device.name for device in found]
    assert {(24 * GIB, 22 * GIB, None, "0000:05:00.0")} == {
        (device.memory_total, device.memory_free, device.memory_used, device.parent) for device in found
    }


async def test_a_processors_gpu_has_the_machines_memory_and_says_so(machine: Machine) -> None:
    machine.memory(128 * GIB, 60 * GIB)
    machine.amd_gpu(1, version=110501, vram=(512 * _MIB, 100 * _MIB), gtt=(96 * GIB, 4 * GIB), name="")
    found = await rocm(machine).detect()
    (device,) = found.devices
    assert (96 * GIB, 60 * GIB, True) == (device.memory_total, device.memory_free, device.shares_host_memory)
    assert "gfx1151) is part of the processor" in found.detail
    assert "it may have 96.0 GiB (ttm.pages_limit); 0.5 GiB are set aside" in found.detail


async def test_a_processors_gpu_with_most_memory_set_aside_uses_that(machine: Machine) -> None:
    machine.amd_gpu(1, version=110501, vram=(96 * GIB, 6 * GIB), gtt=(16 * GIB, 0))
    found = await rocm(machine).detect()
    (device,) = found.devices
    assert (96 * GIB, 90 * GIB, False, "") == (
        device.memory_total,
        device.memory_free,
        device.shares_host_memory,
        found.detail,
    )


async def test_a_small_card_in_a_large_machine_is_no_part_of_the_processor(machine: Machine) -> None:
    machine.amd_gpu(1, version=110000, vram=(24 * GIB, 0), gtt=(64 * GIB, 0))
    (device,) = (await rocm(machine).detect()).devices
    assert (24 * GIB, False) == (device.memory_total, device.shares_host_memory)


async def test_memory_the_driver_does_not_tell_is_what_the_compute_driver_says(machine: Machine) -> None:
    machine.amd_gpu(1, vram=None, bank=8 * GIB)
    (device,) = (await rocm(machine).detect()).devices
    assert (8 * GIB, None) == (device.memory_total, device.memory_free)


@pytest.mark.parametrize(
    ("environ", "buses"),
    [
        ({}, [1, 2, 3]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, [3, 1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [2]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "0"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-00000000beef0002"}, [2]),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"HIP_VISIBLE_DEVICES": "7"}, []),
    ],
)
async def test_variables_choose_cards(machine: Machine, environ: dict[str, str], buses: list[int]) -> None:
    for node in (1, 2, 3):
        machine.amd_gpu(node, bus=node)
    found = await rocm(machine, environ=environ).detect()
    assert [f"0000:{bus:02x}:00.0" for bus in buses] == [device.bus for device in found.devices]
    assert list(range(len(buses))) == [device.index for device in found.devices]
    assert bool(found.detail) == (not buses)


async def test_a_user_outside_of_the_group_is_told(machine: Machine) -> None:
    machine.amd_gpu(1)
    found = await rocm(machine, lambda path: path.name != "kfd").detect()
    assert found.detail.startswith("This process may not open /dev/kfd")
    assert "`render`" in found.detail


async def test_a_render_file_that_cannot_be_opened_is_told(machine: Machine) -> None:
    machine.amd_gpu(1)
    found = await rocm(machine, lambda path: path.name == "kfd").detect()
    assert not found.present
    assert "This process may not open /dev/dri/renderD128 of the AMD GPU at 0000:01:00.0" in found.detail


async def test_a_render_file_that_a_container_lacks_is_told_and_the_rest_is_used(machine: Machine) -> None:
    machine.amd_gpu(1, bus=1)
    machine.amd_gpu(2, bus=2)
    (machine.dev / "dri/renderD128").unlink()
    found = await rocm(machine).detect()
    assert ["0000:02:00.0"] == [device.bus for device in found.devices]
    assert (
        "/dev/dri/renderD128 of the AMD GPU at 0000:01:00.0 is missing: give the container `--device /dev/dri`."
        == found.detail
    )


async def test_cards_that_a_control_group_hides_are_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.amd_gpu(1)

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "control group denies the AMD GPUs" in (await rocm(machine).detect()).detail


@pytest.mark.parametrize(
    ("driver", "said"),
    [("amdgpu", "--device /dev/kfd --device /dev/dri"), ("", "modprobe amdgpu"), ("radeon", "It is driven by radeon.")],
)
async def test_a_card_without_the_compute_driver_is_told(machine: Machine, driver: str, said: str) -> None:
    machine.pci("0000:03:00.0", 0x1002, driver=driver)
    assert said in (await rocm(machine).detect()).detail


async def test_a_compute_driver_without_a_card_is_told(machine: Machine) -> None:
    machine.put("dev/kfd")
    machine.processor_node()
    assert "the compute driver knows no GPU" in (await rocm(machine).detect()).detail


# --- the processor


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, "64 cores"),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, "64 cores"),
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"},
            "2.5 of 64 cores by control group",
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
            },
            "4 of 64 cores by control group",
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, "64 cores"),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n2:memory:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            "1.5 of 64 cores by control group",
        ),
        ({"proc/self/cgroup": "5:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, "64 cores"),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, "64 cores"),
        ({"proc/self/cgroup": GARBAGE, "sys/fs/cgroup/cpu.max": GARBAGE, "proc/cpuinfo": GARBAGE}, "64 cores"),
    ],
)
async def test_the_processor_has_the_cores_that_control_groups_leave(
    machine: Machine, files: dict[str, str | bytes], cores: str
) -> None:
    for path, content in files.items():
        machine.put(path, content)
    (device,) = (await cpu(machine).detect()).devices
    assert f"{platform.machine()}, {cores}" == device.name


async def test_one_core_is_one_core(machine: Machine) -> None:
    machine.put("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC\t9654  96-Core\n")
    (device,) = (await cpu(machine, 1).detect()).devices
    assert "AMD EPYC 9654 96-Core, 1 core" == device.name


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "100\n"}, (64 * GIB, 32 * GIB)),
        ({"sys/fs/cgroup/memory.max": f"{4 * GIB}\n", "sys/fs/cgroup/memory.current": f"{GIB}\n"}, (4 * GIB, 3 * GIB)),
        (
            {
                "proc/self/cgroup": "3:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{6 * GIB}\n",
            },
            (8 * GIB, 2 * GIB),
        ),
    ],
)
async def test_the_processor_has_the_memory_that_control_groups_leave(
    machine: Machine, files: dict[str, str], memory: tuple[int, int]
) -> None:
    machine.memory(64 * GIB, 32 * GIB)
    machine.put("proc/self/cgroup", "0::/\n")
    for path, content in files.items():
        machine.put(path, content)
    (device,) = (await cpu(machine).detect()).devices
    assert memory == (device.memory_total, device.memory_free)


async def test_a_system_that_does_not_tell_its_memory_still_has_a_processor(machine: Machine) -> None:
    found = await cpu(machine).detect()
    assert [None] == [device.memory_total for device in found.devices]
    assert "This system does not tell how much memory there is." == found.detail
