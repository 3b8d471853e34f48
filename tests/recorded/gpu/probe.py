"""What every detector says of this machine, as JSON, and whether it agrees with the vendors' tools.

    python tests/recorded/gpu/probe.py [--torch]

from the top of a checkout; needs ``attrs`` and ``pluggy`` beside the standard library. Results on standard output, a line for each
comparison on standard error. Exit status 1 where something disagrees.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parents[3]))

from dmr_adapters.gpu import nvml
from dmr_adapters.gpu.cann import CannDetector
from dmr_adapters.gpu.cpu import CpuDetector
from dmr_adapters.gpu.cuda import CudaDetector
from dmr_adapters.gpu.musa import MusaDetector
from dmr_adapters.gpu.nvidia_smi import QUERY
from dmr_adapters.gpu.rocm import RocmDetector
from dmr_adapters.gpu.tool import find_tool, run_tool
from dmr_adapters.memory.probe import MachineMemoryProbe
from dmr_core.domain.gpu import Detection

_SMI_FOLDERS = (Path("/usr/local/nvidia/bin"),)
_SLACK = 256 << 20
"""Bytes by which free memory may differ between two looks, one after the other."""


async def say(name: str, detector: Any) -> tuple[Detection, dict[str, Any]]:
    """One detector's answer, and how long it took."""
    began = time.perf_counter()
    found = await detector.detect()
    took = time.perf_counter() - began
    print(f"{name}: {len(found.devices)} device(s) in {took * 1000:.1f} ms. {found.detail}", file=sys.stderr)
    return found, {**attrs.asdict(found), "milliseconds": round(took * 1000, 1)}


def compare_with_smi(found: Detection, differences: list[str]) -> str:
    """The tool's own lines; adds to ``differences`` where the detector says something else."""
    tool = find_tool("nvidia-smi", _SMI_FOLDERS, "")
    if tool is None:
        return ""
    text = subprocess.run([tool, *QUERY], capture_output=True, text=True, check=False, timeout=60).stdout
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines() if line.strip()]
    whole = [device for device in found.devices if not device.parent]
    if not any(row[8] == "Enabled" for row in rows) and len(rows) != len(whole):
        differences.append(f"nvidia-smi lists {len(rows)} GPUs, the detector {len(whole)}")
    for row, device in zip(rows, whole, strict=False):
        _, uuid, name, total, _, free, driver, compute, _, bus = row
        pairs: list[tuple[str, object, object]] = [
            ("uuid", uuid, device.uuid),
            ("name", name, device.name),
            ("total MiB", total, str((device.memory_total or 0) >> 20)),
            ("driver", driver, device.driver),
            ("compute capability", compute, device.architecture),
            ("bus", bus.casefold(), device.bus.casefold()),
        ]
        differences += [
            f"{label}: nvidia-smi {theirs!r}, detector {ours!r}" for label, theirs, ours in pairs if theirs != ours
        ]
        if abs((int(free) << 20) - (device.memory_free or 0)) > _SLACK:
            differences.append(f"free: nvidia-smi {free} MiB, detector {(device.memory_free or 0) >> 20} MiB")
    return text


async def allocate(differences: list[str]) -> dict[str, Any]:
    """Whether memory that is taken is seen to be taken: 2 GiB by torch, between two looks."""
    torch = importlib.import_module("torch")  # only where it is asked for
    torch.zeros(1, device="cuda")
    before = (await CudaDetector().detect()).devices[0].memory_free or 0
    taken = torch.zeros(2 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    after = (await CudaDetector().detect()).devices[0].memory_free or 0
    theirs = torch.cuda.mem_get_info()
    if not (2 << 30) - _SLACK <= before - after <= (2 << 30) + _SLACK:
        differences.append(f"2 GiB were taken, the detector saw {before - after} bytes go")
    if abs(theirs[0] - after) > 2 * _SLACK:
        differences.append(f"free: torch {theirs[0]}, detector {after}")
    return {"before": before, "after": after, "torch_free": theirs[0], "torch_total": theirs[1], "bytes": taken.nbytes}


async def variables(cuda: Detection, differences: list[str]) -> dict[str, Any]:
    """What the variables do, against what is there."""
    if not cuda.devices:
        return {}
    first = cuda.devices[0].uuid
    wanted = {"": 0, "-1": 0, "0": 1, "99": 0, first: 1, first[:12]: 1, f"0,{first}": 0}
    results = {}
    for value, count in wanted.items():
        found = await CudaDetector(environ={"CUDA_VISIBLE_DEVICES": value}).detect()
        results[value] = {"devices": len(found.devices), "detail": found.detail}
        if len(found.devices) != count:
            differences.append(f"CUDA_VISIBLE_DEVICES={value!r}: {len(found.devices)} devices, expected {count}")
    return results


async def troubles(cuda: Detection, differences: list[str]) -> dict[str, Any]:
    """What is said where something is missing, on this machine's real driver."""
    if not cuda.devices:
        return {}
    program = (sys.executable, "-I", "-S", str(nvml.__file__))
    cases = {
        "no library, tool": CudaDetector(nvml=(*program, "--library", "/nowhere/libnvidia-ml.so.1")),
        "no library, no tool": CudaDetector(
            nvml=(*program, "--library", "/nowhere/libnvidia-ml.so.1"), smi=Path("/nowhere/nvidia-smi")
        ),
        "library that hangs": CudaDetector(nvml=("/bin/sh", "-c", "sleep 60"), limit=1.0),
        "no time at all": CudaDetector(limit=0.001),
    }
    results = {}
    for name, detector in cases.items():
        found, results[name] = await say(name, detector)
        if found.present != (name == "no library, tool") or (not found.present and not found.detail):
            differences.append(f"{name}: present is {found.present}, detail {found.detail!r}")
    same = [(device.uuid, device.memory_total, device.architecture) for device in cuda.devices]
    tool = await cases["no library, tool"].detect()
    if same != [(device.uuid, device.memory_total, device.architecture) for device in tool.devices]:
        differences.append("nvidia-smi tells other devices than the library")
    return results


async def main() -> int:
    """Print everything."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--torch", action="store_true", help="also take memory with torch and see it go")
    given = options.parse_args()
    differences: list[str] = []
    document: dict[str, Any] = {"python": platform.python_version(), "detections": {}}
    cuda = Detection(variant="cuda")
    for name, detector in {
        "cpu": CpuDetector(),
        "cuda": CudaDetector(),
        "rocm": RocmDetector(),
        "musa": MusaDetector(),
        "cann": CannDetector(),
    }.items():
        found, document["detections"][name] = await say(name, detector)
        cuda = found if name == "cuda" else cuda
    document["nvml"] = (
        await run_tool(
            [sys.executable, "-I", "-S", str(nvml.__file__), "--seconds", "20"], limit=20, environ=os.environ
        )
    ).output
    document["nvidia_smi"] = compare_with_smi(cuda, differences)
    document["visible"] = await variables(cuda, differences)
    document["troubles"] = await troubles(cuda, differences)

    async def no_engines() -> None:
        return None

    async def look() -> tuple[Detection, ...]:
        return (await CudaDetector().detect(),)

    memory = await MachineMemoryProbe(no_engines, (cuda,), look=look).read()
    document["memory"] = attrs.asdict(memory) if memory is not None else None
    if given.torch:
        document["torch"] = await allocate(differences)
    document["differences"] = differences
    print(json.dumps(document, indent=2))
    for difference in differences:
        print(f"DIFFERS: {difference}", file=sys.stderr)
    print("all agree" if not differences else f"{len(differences)} differences", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
