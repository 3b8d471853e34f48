"""A machine that is nothing but files: device files, a sysfs and a procfs, and vendors' tools that print what they are told.

``tests/recorded/gpu`` has what real tools said.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "recorded" / "gpu"

GARBAGE = bytes(range(256)) * 8

GIB = 1 << 30


class Machine:
    """Files below ``root``; every method adds some."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dev, self.sys, self.proc = root / "dev", root / "sys", root / "proc"
        for folder in (self.dev, self.sys, self.proc):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: str, content: str | bytes = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def device_files(self, prefix: str, count: int, *others: str) -> None:
        for name in (*others, *(f"{prefix}{number}" for number in range(count))):
            self.put(f"dev/{name}")

    def tool(self, name: str, *answers: tuple[str, str | bytes | Path], code: int = 0, hangs: bool = False) -> Path:
        """A tool that prints, for each first argument, what it is given, and fails with ``code``."""
        lines = ["#!/bin/sh"]
        if hangs:
            lines.append("exec sleep 600")
        for number, (argument, answer) in enumerate(answers):
            file = answer if isinstance(answer, Path) else self.put(f"tools/{name}.{number}", answer)
            lines.append(f'case "$*" in {shlex.quote(argument)}*) cat {shlex.quote(str(file))}; exit {code};; esac')
        lines.append('echo "unknown option $*" >&2; exit 2')
        tool = self.put(f"tools/{name}", "\n".join(lines) + "\n")
        tool.chmod(0o755)
        return tool

    def pci(self, address: str, vendor: int, *, driver: str = "", kind: int = 0x030200, **files: object) -> None:
        folder = f"sys/bus/pci/devices/{address}"
        self.put(f"{folder}/vendor", f"{vendor:#06x}\n")
        self.put(f"{folder}/class", f"{kind:#08x}\n")
        for name, content in files.items():
            self.put(f"{folder}/{name}", f"{content}\n")
        if driver:
            target = self.root / "sys/bus/pci/drivers" / driver
            target.mkdir(parents=True, exist_ok=True)
            (self.root / folder / "driver").symlink_to(target)

    def amd_gpu(
        self,
        node: int,
        *,
        version: int = 90402,
        bus: int = 1,
        minor: int | None = None,
        vram: tuple[int, int] | None = (16 * GIB, GIB),
        gtt: tuple[int, int] | None = None,
        bank: int | None = None,
        partition: str = "SPX",
        name: str = "AMD Instinct MI300X",
        partition_bits: int = 0,
    ) -> None:
        """A compute node, its render file, and its PCI device at ``0000:<bus>:00.0``."""
        minor = 127 + node if minor is None else minor
        properties = {
            "cpu_cores_count": 0,
            "simd_count": 304,
            "gfx_target_version": version,
            "vendor_id": 0x1002,
            "location_id": bus << 8 | partition_bits,
            "domain": 0,
            "drm_render_minor": minor,
            "unique_id": 0xBEEF0000 + node,
        }
        folder = f"sys/class/kfd/kfd/topology/nodes/{node}"
        self.put(f"{folder}/properties", "".join(f"{key} {value}\n" for key, value in properties.items()))
        self.put(f"{folder}/name", "ip discovery\n")
        if bank is not None:
            self.put(f"{folder}/mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {bank}\nflags 0\n")
        self.put(f"dev/dri/renderD{minor}")
        self.put("dev/kfd")
        address = f"0000:{bus:02x}:00.0"
        if not (self.root / "sys/bus/pci/devices" / address).exists():
            figures: dict[str, object] = {"product_name": name, "current_compute_partition": partition}
            if vram is not None:
                figures |= {"mem_info_vram_total": vram[0], "mem_info_vram_used": vram[1]}
            if gtt is not None:
                figures |= {"mem_info_gtt_total": gtt[0], "mem_info_gtt_used": gtt[1]}
            self.pci(address, 0x1002, driver="amdgpu", kind=0x038000, **figures)

    def processor_node(self) -> None:
        """The processor's own entry of the compute topology."""
        self.put(
            "sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 48\nsimd_count 0\ngfx_target_version 0\n"
        )

    def memory(self, total: int, available: int) -> None:
        self.put("proc/meminfo", f"MemTotal: {total >> 10} kB\nMemAvailable: {available >> 10} kB\n")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def nvml_report(count: int) -> dict[str, Any]:
    """What the H100 said, as ``count`` of them would."""
    report: dict[str, Any] = json.loads(recorded("nvml-h100.json"))
    (gpu,) = report["devices"]
    report["devices"] = [
        {**gpu, "index": index, "uuid": f"{gpu['uuid'][:-2]}{index:02x}", "bus": f"00000000:00:{6 + index:02x}.0"}
        for index in range(count)
    ]
    return report


def mthreads_report(count: int) -> str:
    """What an MTT S4000 says, as ``count`` of them would."""
    report = json.loads(recorded("mthreads-gmi-s4000.json"))
    gpu = report["GPU"][0]
    report["GPU"] = [
        {**gpu, "Index": str(index), "GPU UUID": f"{gpu['GPU UUID'][:-2]}{index:02x}"} for index in range(count)
    ]
    return json.dumps(report)


def ascend_table(count: int) -> str:
    """What ``npu-smi info`` prints for ``count`` chips of type 910B3."""
    lines = recorded("npu-smi-910b3.txt").splitlines()
    head, after = lines[:6], lines[12:]
    rows = []
    for index in range(count):
        rows += [lines[6].replace("| 0  ", f"| {index}  "), lines[7].replace("C1", f"{0xC1 + index:02X}"), lines[5]]
    return "\n".join([*head, *rows, *after])
