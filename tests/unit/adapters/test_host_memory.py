"""Memory as the machine and its control groups tell it, on trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_adapters.memory.machine import HostMemory, read_host_memory
from dmr_adapters.memory.probe import MachineMemoryProbe
from dmr_adapters.process.footprint import footprint_of
from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.domain.memory import Footprint
from dmr_core.ports.memory import MachineMemory

GIB = 1 << 30
MEMINFO = "MemTotal:       33554432 kB\nMemFree:         1048576 kB\nMemAvailable:   16777216 kB\n"


def tree(root: Path, **files: str) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(path: str, **files: str) -> dict[str, str]:
    return {f"sys/fs/cgroup/{path}{name.replace('_', '.', 1)}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, HostMemory(32 * GIB, 16 * GIB), id="no control group"),
        pytest.param(
            {"proc/self/cgroup": "0::/a\n", **group("a/", memory_max="max\n", memory_current="5\n")},
            HostMemory(32 * GIB, 16 * GIB),
            id="no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a\n",
                **group("a/", memory_max=f"{8 * GIB}\n", memory_current=f"{5 * GIB}\n"),
                "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {GIB}\nactive_file {GIB}\nfile junk\n",
            },
            HostMemory(8 * GIB, 5 * GIB),
            id="a limit, less what is used, and the page cache back",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                **group("a/", memory_max=f"{4 * GIB}\n", memory_current=f"{3 * GIB}\n"),
                **group("a/b/", memory_max=f"{8 * GIB}\n", memory_current="0\n"),
            },
            HostMemory(4 * GIB, GIB),
            id="the limit of a parent",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/a\n", **group("a/", memory_high=f"{2 * GIB}\n", memory_current="0\n")},
            HostMemory(2 * GIB, 2 * GIB),
            id="the limit above which the kernel slows everything down",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu:/x\n3:memory:/y\n",
                "sys/fs/cgroup/memory/y/memory.limit_in_bytes": f"{6 * GIB}",
                "sys/fs/cgroup/memory/y/memory.usage_in_bytes": f"{2 * GIB}",
                "sys/fs/cgroup/memory/y/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
            },
            HostMemory(6 * GIB, 5 * GIB),
            id="version 1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../../a\n", **group("a/", memory_max="1x\n", memory_current="?\n")},
            HostMemory(32 * GIB, 16 * GIB),
            id="garbage",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a\n",
                **group("a/", memory_max=f"{8 * GIB}\n", memory_current=f"{GIB}\n"),
                "sys/fs/cgroup/a/memory.stat": f"inactive_file {'9' * 5000}\nactive_file x\n",
                "sys/fs/cgroup/memory.max": "9" * 5000,
            },
            HostMemory(8 * GIB, 7 * GIB),
            id="numbers that are none",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/a\n", **group("a/", memory_max=f"{GIB}\n", memory_current=f"{2 * GIB}\n")},
            HostMemory(GIB, 0),
            id="more used than allowed",
        ),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, files: dict[str, str], expected: HostMemory) -> None:
    assert read_host_memory(tree(tmp_path, **files)) == expected


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "nonsense"])
def test_without_figures_nothing_is_told(tmp_path: Path, text: str) -> None:
    assert read_host_memory(tree(tmp_path, **{"proc/meminfo": text})) is None


async def test_a_reading_has_the_engines_and_the_accelerators(tmp_path: Path) -> None:
    async def engines() -> Footprint:
        return Footprint(resident=3 * GIB, anonymous=2 * GIB)

    card = GpuDevice(index=0, name="card", memory_total=24 * GIB, memory_free=20 * GIB)
    ram = Detection(variant="cpu", devices=(GpuDevice(index=0, name="cpu", memory_total=GIB),))
    probe = MachineMemoryProbe(engines, (ram, Detection(variant="cuda", devices=(card, card))), tree(tmp_path))
    assert await probe.read() == MachineMemory(
        total=32 * GIB,
        available=16 * GIB,
        engines=2 * GIB,
        device_total=48 * GIB,
        device_available=40 * GIB,
    )


async def test_accelerators_that_do_not_tell_are_not_counted(tmp_path: Path) -> None:
    async def no_engines() -> None:
        return None

    silent = Detection(variant="cuda", devices=(GpuDevice(index=0, name="card"),))
    found = await MachineMemoryProbe(no_engines, (silent,), tree(tmp_path)).read()
    assert found is not None
    assert (found.engines, found.device_available) == (0, None)


def test_footprints_of_several_processes_add_up(tmp_path: Path) -> None:
    rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 300 kB\nPss_Anon: 200 kB\nPss_Shmem: 50 kB\n"
    status = "Name:\tx\nVmRSS:\t    100 kB\nRssAnon:\t      40 kB\nRssShmem:\t       10 kB\n"
    for pid, name, text in (("1", "smaps_rollup", rollup), ("2", "smaps_rollup", rollup), ("3", "status", status)):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / name).write_text(text)

    assert footprint_of([1, 2, 3, 4], tmp_path) == Footprint(resident=700 * 1024, anonymous=550 * 1024)
    assert footprint_of([4], tmp_path) is None
