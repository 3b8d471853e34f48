"""What ``nvidia-smi`` prints, for machines that have it while the library cannot be loaded.

``--query-gpu=… --format=csv,noheader,nounits`` gives a line for each GPU, memory in MiB; ``-L`` names MIG instances.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from dmr_adapters.gpu.nvidia_gpu import Fault, NvidiaGpu, NvidiaReport
from dmr_adapters.gpu.wording import plain

__all__ = ["LIST", "QUERY", "parse_instances", "parse_query"]

_FIELDS: Final = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "memory.free",
    "driver_version",
    "compute_cap",
    "mig.mode.current",
    "pci.bus_id",
)

QUERY: Final = (f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
LIST: Final = ("-L",)

_MIB: Final = 1 << 20
_LOST: Final = 15
_GPU_LINE: Final = re.compile(r"^GPU (\d{1,4}): ")
_PROFILE: Final = re.compile(r"\d{1,2}g\.(\d{1,4})gb\b")
_MIG_LINE: Final = re.compile(r"^\s+MIG (\S{1,40})\s+Device\s+(\d{1,4}): \(UUID: (MIG-[0-9A-Za-z/-]{1,100})\)")


def parse_query(text: str) -> NvidiaReport | None:
    """What :data:`QUERY` printed; ``None`` where it is nonsense."""
    gpus: list[NvidiaGpu] = []
    driver = ""
    for line in text.splitlines()[:1024]:
        fields = [plain(field) for field in line[:4096].split(",")]
        if len(fields) != len(_FIELDS) or not (fields[0].isascii() and fields[0].isdigit()):
            if "lost" in text.casefold() and fields and "GPU" in fields[0]:
                gpus.append(NvidiaGpu(index=len(gpus), fault=Fault(_LOST, fields[0])))
                continue
            return None
        index, uuid, name, total, used, free, version, compute, mig, bus = fields
        driver = driver or version
        gpus.append(
            NvidiaGpu(
                index=int(index[:6]),
                name=name,
                uuid=uuid if uuid.startswith("GPU-") else "",
                bus=bus,
                compute=compute if re.fullmatch(r"\d{1,3}\.\d", compute) else "",
                total=_mebibytes(total) or None,
                used=_mebibytes(used),
                free=_mebibytes(free),
                unified=_mebibytes(total) is None,
                mig=mig == "Enabled",
            )
        )
    return NvidiaReport(gpus=tuple(gpus), driver=driver, library="nvidia-smi") if gpus else None


def parse_instances(report: NvidiaReport, text: str) -> NvidiaReport:
    """With the MIG instances that :data:`LIST` printed. Of their memory it tells what is in the name of their profile."""
    instances: dict[int, list[NvidiaGpu]] = {}
    parent = -1
    for line in text.splitlines()[:4096]:
        if head := _GPU_LINE.match(line):
            parent = int(head[1])
        elif part := _MIG_LINE.match(line):
            named = NvidiaGpu(index=int(part[2]), name=f"MIG {part[1]}", uuid=part[3], total=_profile_memory(part[1]))
            instances.setdefault(parent, []).append(named)
    return attrs.evolve(
        report,
        gpus=tuple(
            attrs.evolve(
                gpu,
                instances=tuple(
                    attrs.evolve(part, name=f"{gpu.name} {part.name}") for part in instances.get(gpu.index, ())
                ),
            )
            for gpu in report.gpus
        ),
    )


def _profile_memory(profile: str) -> int | None:
    """Bytes that an instance of ``3g.20gb`` has at least: 95 % of the name's GiB, which 1g.5gb has exactly (4864 MiB)."""
    found = _PROFILE.match(profile)
    return int(found[1]) * 1024 * _MIB * 95 // 100 if found else None


def _mebibytes(text: str) -> int | None:
    return int(text) * _MIB if text.isascii() and text.isdigit() and len(text) < 12 else None
