"""NVIDIA GPUs as their driver tells of them, and which of them engines can compute on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from dmr_adapters.gpu.visible import select_visible
from dmr_adapters.gpu.wording import plain
from dmr_core.domain.gpu import GpuDevice

__all__ = ["Fault", "NvidiaGpu", "NvidiaReport", "parse_nvml_report", "usable_devices"]

_NOT_SUPPORTED: Final = 3
_OLDEST: Final = (7, 5)
"""The least compute capability that CUDA 13 builds kernels for (its release notes: Maxwell, Pascal and Volta were dropped)."""


@attrs.frozen
class Fault:
    """An NVML return code, with the library's words for it."""

    code: int
    text: str


@attrs.frozen(kw_only=True)
class NvidiaGpu:
    """A GPU, or a MIG instance of one. Memory in bytes; ``unified`` where the GPU has none but the machine's."""

    index: int
    name: str = ""
    uuid: str = ""
    bus: str = ""
    compute: str = ""
    total: int | None = None
    free: int | None = None
    used: int | None = None
    unified: bool = False
    mig: bool = False
    instances: tuple[NvidiaGpu, ...] = ()
    fault: Fault | None = None


@attrs.frozen(kw_only=True)
class NvidiaReport:
    """All of them. ``library`` is empty where none could be loaded, and ``missing`` says why; ``refused`` are files of ``/dev``."""

    gpus: tuple[NvidiaGpu, ...] = ()
    driver: str = ""
    library: str = ""
    missing: str = ""
    fault: Fault | None = None
    refused: Mapping[str, str] = attrs.field(factory=dict)


def parse_nvml_report(text: str) -> NvidiaReport | None:
    """What ``nvml.py`` printed; ``None`` where that is nonsense."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    refused = found.get("refused")
    return NvidiaReport(
        gpus=tuple(_gpu(gpu) for gpu in _dicts(found.get("devices"))),
        driver=plain(found.get("driver")),
        library=plain(found.get("library")),
        missing=plain(found.get("missing")),
        fault=_fault(found.get("error")),
        refused={str(key): plain(value) for key, value in refused.items()} if isinstance(refused, dict) else {},
    )


def usable_devices(
    report: NvidiaReport, environ: Mapping[str, str], host: tuple[int, int] | None
) -> tuple[tuple[GpuDevice, ...], list[str]]:
    """Devices in the order engines see them, and what there is to say. ``host`` is the machine's memory, total and available."""
    notes: list[str] = []
    units: list[tuple[NvidiaGpu, GpuDevice]] = []
    for gpu in report.gpus:
        if gpu.mig and not gpu.instances:
            notes.append(
                f"GPU {gpu.index} ({gpu.name}) is in MIG mode without an instance, so nothing can run on it: create one with "
                f"`nvidia-smi mig -i {gpu.index} -cgi PROFILE -C`, or leave the mode with `nvidia-smi -i {gpu.index} -mig 0`."
            )
        elif gpu.fault is not None and not gpu.uuid:
            notes.append(_lost(gpu))
        else:
            units += [(part, _device(part, gpu, report.driver, host)) for part in gpu.instances or (gpu,)]
    kept = _visible(environ, report, units, notes)
    notes += _old(gpu for gpu, _ in kept)
    if sum(bool(device.parent) for _, device in kept) > 1:
        notes.append("A CUDA program sees one MIG instance: the first, unless CUDA_VISIBLE_DEVICES names another.")
    if any(device.shares_host_memory for _, device in kept):
        notes.append("The GPU has no memory of its own: it shares the machine's.")
    return tuple(attrs.evolve(device, index=index) for index, (_, device) in enumerate(kept)), notes


def _visible(
    environ: Mapping[str, str],
    report: NvidiaReport,
    units: list[tuple[NvidiaGpu, GpuDevice]],
    notes: list[str],
) -> list[tuple[NvidiaGpu, GpuDevice]]:
    value = environ.get("CUDA_VISIBLE_DEVICES")
    selection = select_visible(value, [device.uuid for _, device in units])
    if units and value is not None:
        if selection.broken and selection.broken not in ("-1", "NoDevFiles"):
            notes.append(
                f"CUDA_VISIBLE_DEVICES={value!r}: {selection.broken!r} names no GPU here, or one twice; correct it."
            )
        elif not selection.kept:
            notes.append(f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU: unset it to use them.")
    differ = len({gpu.name for gpu in report.gpus}) > 1
    numbered = any(entry.strip().isdigit() for entry in (value or "").split(","))
    if differ and numbered and selection.kept and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        notes.append(
            "The GPUs differ, and CUDA numbers the fastest first: set CUDA_DEVICE_ORDER=PCI_BUS_ID so that "
            "CUDA_VISIBLE_DEVICES means the numbers nvidia-smi shows."
        )
    return [units[position] for position in selection.kept]


def _device(part: NvidiaGpu, gpu: NvidiaGpu, driver: str, host: tuple[int, int] | None) -> GpuDevice:
    total, free, used = part.total, part.free, part.used
    shares = total is None and gpu.unified and host is not None
    if shares and host is not None:
        total, free = host
        used = total - free
    whole = part is gpu
    name = part.name or gpu.name or "NVIDIA GPU"
    return GpuDevice(
        index=0,
        name=name if whole or "MIG" in name else f"{name} MIG {part.index}",
        memory_total=total,
        memory_free=min(free, total) if free is not None and total is not None else free,
        memory_used=used,
        uuid=part.uuid,
        bus=gpu.bus,
        driver=driver,
        architecture=gpu.compute,
        parent="" if whole else gpu.uuid or gpu.bus,
        shares_host_memory=shares,
    )


def _old(gpus: Iterable[NvidiaGpu]) -> list[str]:
    notes = []
    for gpu in gpus:
        major, _, minor = gpu.compute.partition(".")
        if major.isdigit() and minor.isdigit() and (int(major), int(minor)) < _OLDEST:
            notes.append(
                f"{gpu.name} has compute capability {gpu.compute}, for which CUDA 13 has no kernels: use an engine that was "
                "built with CUDA 12 or older."
            )
    return sorted(set(notes))


def _lost(gpu: NvidiaGpu) -> str:
    text = gpu.fault.text if gpu.fault is not None else ""
    return (
        f"GPU {gpu.index} does not answer ({text}): see `dmesg` for Xid messages, and reset it or restart the machine."
    )


def _gpu(found: dict[str, Any]) -> NvidiaGpu:
    memory = found.get("memory")
    memory = memory if isinstance(memory, dict) else {}
    faults = _dicts(found.get("errors"))
    no_memory = any(
        "MemoryInfo" in plain(fault.get("call")) and fault.get("code") == _NOT_SUPPORTED for fault in faults
    )
    total = _number(memory.get("total")) or None
    return NvidiaGpu(
        index=_number(found.get("index")) or 0,
        name=plain(found.get("name")),
        uuid=plain(found.get("uuid")),
        bus=plain(found.get("bus")),
        compute=plain(found.get("compute")),
        total=total,
        free=_number(memory.get("free")) if total else None,
        used=_number(memory.get("used")) if total else None,
        unified=no_memory,
        mig=found.get("mig") is True,
        instances=tuple(_gpu(part) for part in _dicts(found.get("instances"))),
        fault=_fault(faults[0]) if faults else None,
    )


def _fault(found: object) -> Fault | None:
    return Fault(_number(found.get("code")) or 0, plain(found.get("text"))) if isinstance(found, dict) else None


def _dicts(found: object) -> list[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)][:256] if isinstance(found, list) else []


def _number(found: object) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 63 else None
