"""NVIDIA GPUs: what was said becomes devices and sentences; which devices variables leave; who registers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.gpu import plugin
from dmr_adapters.gpu.cann import CannDetector
from dmr_adapters.gpu.cpu import CpuDetector
from dmr_adapters.gpu.cuda import CudaDetector
from dmr_adapters.gpu.device_files import numbered_files
from dmr_adapters.gpu.musa import MusaDetector
from dmr_adapters.gpu.nvidia_gpu import NvidiaGpu, NvidiaReport, parse_nvml_report, usable_devices
from dmr_adapters.gpu.nvidia_smi import parse_instances, parse_query
from dmr_adapters.gpu.nvidia_trouble import trouble
from dmr_adapters.gpu.rocm import RocmDetector
from dmr_adapters.gpu.visible import Selection, select_visible
from dmr_core.domain.gpu import Detection, GpuDevice
from tests.stand_ins.gpu_machine import GARBAGE, RECORDED, Machine, nvml_report, recorded

_MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def cuda(machine: Machine, report: object = None, smi: Path | None = None, **environ: str) -> CudaDetector:
    text = json.dumps({"library": None, "missing": "not found"} if report is None else report)
    return CudaDetector(
        dev=machine.dev,
        sys=machine.sys,
        proc=machine.proc,
        environ=environ,
        nvml=("/bin/sh", "-c", f'cat "{machine.put("nvml.json", text)}"'),
        smi=smi or machine.root / "none",
    )


def devices(report: Mapping[str, Any] | NvidiaReport | None, **environ: str) -> tuple[list[str], str]:
    """UUIDs of what can be used, and what is said."""
    if not isinstance(report, NvidiaReport):
        report = parse_nvml_report(json.dumps(report))
    assert report is not None
    found, notes = usable_devices(report, environ, None)
    return [device.uuid for device in found], " ".join(notes)


# --- which devices


@pytest.mark.parametrize(
    ("value", "kept", "broken"),
    [
        (None, (0, 1, 2), ""),
        ("", (), ""),
        ("  ", (), ""),
        ("0", (0,), ""),
        ("2,0", (2, 0), ""),
        (" 1 , 2 ", (1, 2), ""),
        ("GPU-bb", (1,), ""),
        ("gpu-BB,0", (1, 0), ""),
        ("GPU-", (), "GPU-"),
        ("-1", (), "-1"),
        ("1,-1,0", (1,), "-1"),
        ("0,7,1", (0,), "7"),
        ("0,0", (), "0"),
        ("0,GPU-aa", (), "GPU-aa"),
        ("0,,1", (0,), "an empty entry"),
        ("NoDevFiles", (), "NoDevFiles"),
        ("9" * 5000, (), "9" * 5000),
        ("²", (), "²"),
    ],
)
def test_devices_are_chosen_as_cuda_chooses(value: str | None, kept: tuple[int, ...], broken: str) -> None:
    assert Selection(kept, broken) == select_visible(value, ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"])


def test_device_files_are_counted_by_their_numbers(machine: Machine) -> None:
    machine.device_files("nvidia", 11, "nvidiactl", "nvidia-uvm", "nvidia²", "nvidia" + "1" * 30, "null")
    assert tuple(f"nvidia{number}" for number in range(11)) == numbered_files(machine.dev, "nvidia")


# --- what the library said


def test_an_h100_is_told_in_full() -> None:
    report = parse_nvml_report(recorded("nvml-h100.json"))
    assert report is not None
    assert usable_devices(report, {}, None) == (
        (
            GpuDevice(
                index=0,
                name="NVIDIA H100 80GB HBM3",
                memory_total=81559 * _MIB,
                memory_free=81079 * _MIB,
                memory_used=0,
                uuid="GPU-43544427-5211-0930-9149-f3b8b5fd14e2",
                bus="00000000:00:06.0",
                driver="580.159.04",
                architecture="9.0",
            ),
        ),
        [],
    )


def test_the_tool_tells_the_same_as_the_library() -> None:
    library, tool = parse_nvml_report(recorded("nvml-h100.json")), parse_query(recorded("nvidia-smi-query-h100.csv"))
    assert library is not None
    assert tool is not None
    assert usable_devices(library, {}, None) == usable_devices(tool, {}, None)


def test_mig_instances_stand_for_their_gpu_and_one_without_any_is_of_no_use() -> None:
    found, said = devices(json.loads(recorded("nvml-a100-mig.json")))
    assert ["MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "MIG-a5d2a1f0-7f0b-5d39-9a3e-5c0ec6a2bd11"] == found
    assert "GPU 1 (NVIDIA A100-SXM4-40GB) is in MIG mode without an instance" in said
    assert "`nvidia-smi mig -i 1 -cgi PROFILE -C`" in said


def test_the_tool_names_mig_instances_without_their_memory() -> None:
    gpus = parse_query(recorded("nvidia-smi-query-a100-mig.csv"))
    assert gpus is not None
    report = parse_instances(gpus, recorded("nvidia-smi-list-a100-mig.txt"))
    found, _ = usable_devices(report, {}, None)
    memory = {"3g.20gb": 19 * 1024 * _MIB, "1g.5gb": 4864 * _MIB}
    assert [(f"NVIDIA A100-SXM4-40GB MIG {profile}", total) for profile, total in memory.items()] == [
        (device.name, device.memory_total) for device in found
    ]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("MIG-a5d2", ["MIG-a5d2a1f0-7f0b-5d39-9a3e-5c0ec6a2bd11"]),
        ("GPU-5c89852c", []),
        ("1", ["MIG-a5d2a1f0-7f0b-5d39-9a3e-5c0ec6a2bd11"]),
    ],
)
def test_a_mig_instance_is_chosen_by_its_own_name(value: str, kept: list[str]) -> None:
    assert kept == devices(json.loads(recorded("nvml-a100-mig.json")), CUDA_VISIBLE_DEVICES=value)[0]


def test_chosen_devices_are_counted_anew_in_the_order_asked_for() -> None:
    report = parse_nvml_report(json.dumps(nvml_report(4)))
    assert report is not None
    found, notes = usable_devices(report, {"CUDA_VISIBLE_DEVICES": "3,1"}, None)
    assert [(0, "00000000:00:09.0"), (1, "00000000:00:07.0")] == [(device.index, device.bus) for device in found]
    assert [] == notes


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_hiding_every_gpu_is_said(value: str) -> None:
    found, said = devices(nvml_report(2), CUDA_VISIBLE_DEVICES=value)
    assert [] == found
    assert f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU: unset it to use them." == said


def test_a_number_that_names_no_gpu_is_said() -> None:
    found, said = devices(nvml_report(2), CUDA_VISIBLE_DEVICES="0,5")
    assert 1 == len(found)
    assert "CUDA_VISIBLE_DEVICES='0,5': '5' names no GPU here" in said


def test_numbers_among_gpus_that_differ_come_with_a_warning() -> None:
    report = nvml_report(2)
    report["devices"][1]["name"] = "NVIDIA L4"
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in devices(report, CUDA_VISIBLE_DEVICES="1")[1]
    assert "" == devices(report, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID")[1]


@pytest.mark.parametrize(
    ("compute", "told"), [("6.1", True), ("7.0", True), ("7.5", False), ("12.0", False), ("", False)]
)
def test_a_gpu_that_new_kernels_leave_out_is_told(compute: str, *, told: bool) -> None:
    report = nvml_report(1)
    report["devices"][0]["compute"] = compute
    found, said = devices(report)
    assert 1 == len(found)
    assert told == ("for which CUDA 13 has no kernels" in said)


def test_a_gpu_that_fell_off_the_bus_is_told_and_the_others_are_used() -> None:
    report = nvml_report(2)
    fault = {"call": "nvmlDeviceGetHandleByIndex_v2", "code": 15, "text": "GPU is lost"}
    report["devices"][0] = {"index": 0, "errors": [fault]}
    found, said = devices(report)
    assert 1 == len(found)
    assert "GPU 0 does not answer (GPU is lost): see `dmesg`" in said


def test_a_gpu_that_has_the_machines_memory_is_told_from_one_that_does_not_answer() -> None:
    report = parse_query(recorded("nvidia-smi-query-gb10.csv"))
    assert report is not None
    (device,), notes = usable_devices(report, {}, (128, 100))
    assert (128, 100, 28, True) == (
        device.memory_total,
        device.memory_free,
        device.memory_used,
        device.shares_host_memory,
    )
    assert ["The GPU has no memory of its own: it shares the machine's."] == notes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        "{",
        "[" * 100_000,
        GARBAGE.decode("latin-1"),
        '{"devices": {"a": 1}}',
        '{"devices": [null, 3, "x"]}',
    ],
)
def test_nonsense_from_the_library_is_nothing(text: str) -> None:
    report = parse_nvml_report(text)
    assert report is None or () == report.gpus


def test_values_of_other_types_are_left_out() -> None:
    gpu = {
        "index": "0",
        "name": 7,
        "uuid": None,
        "memory": {"total": -5, "free": True, "used": 1 << 70},
        "mig": 1,
        "errors": "x",
    }
    assert NvidiaReport(gpus=(NvidiaGpu(index=0),)) == parse_nvml_report(json.dumps({"devices": [gpu]}))


def test_a_name_brings_nothing_to_a_terminal_but_its_letters() -> None:
    report = nvml_report(1)
    report["devices"][0]["name"] = "NVIDIA\x1b[31m  H100\n\x07" + "x" * 5000
    parsed = parse_nvml_report(json.dumps(report))
    assert parsed is not None
    assert parsed.gpus[0].name.startswith("NVIDIA[31m H100 xxx")
    assert 200 >= len(parsed.gpus[0].name)


@pytest.mark.parametrize("text", ["", "\n", "garbage", "a,b", GARBAGE.decode("latin-1"), "0, GPU-1, x\n", "x" * 10**6])
def test_nonsense_from_the_tool_is_nothing(text: str) -> None:
    assert parse_query(text) is None


# --- why there is none


@pytest.mark.parametrize(
    ("code", "refused", "said"),
    [
        (18, {}, "restart the machine"),
        (9, {}, "modprobe nvidia"),
        (15, {}, "fell off the bus"),
        (4, {}, "this user may not use it"),
        (999, {}, "see `dmesg`"),
        (999, {"nvidiactl": "EPERM"}, "control group denies the device"),
        (999, {"nvidia-uvm": "EPERM"}, "/dev/nvidia-uvm: the container's control group denies"),
        (4, {"nvidiactl": "EACCES"}, "see the owner and mode"),
        (9, {"nvidiactl": "ENXIO"}, "modprobe nvidia"),
        (999, {"nvidiactl": "ENOENT"}, "/dev/nvidiactl is missing"),
    ],
)
def test_a_refusal_says_what_to_do(code: int, refused: dict[str, str], said: str) -> None:
    report = parse_nvml_report(json.dumps({"library": "x", "error": {"code": code, "text": "No"}, "refused": refused}))
    assert report is not None
    assert said in trouble(report)
    assert trouble(report).endswith(".")


async def test_where_no_device_file_is_nothing_is_started(machine: Machine) -> None:
    detector = CudaDetector(
        dev=machine.dev,
        sys=machine.sys,
        proc=machine.proc,
        environ={},
        nvml=("/bin/sh", "-c", f"touch {machine.root}/started"),
    )
    assert await detector.detect() == Detection(
        variant="cuda", detail="No NVIDIA GPU: there is no /dev/nvidia0, and none on the PCI bus."
    )
    assert not (machine.root / "started").exists()


async def test_a_card_without_its_driver_is_told(machine: Machine) -> None:
    machine.pci("0000:00:06.0", 0x10DE)
    assert (
        "There is an NVIDIA GPU at 0000:00:06.0, but no /dev/nvidia0: install" in (await cuda(machine).detect()).detail
    )


async def test_a_card_with_another_driver_is_told(machine: Machine) -> None:
    machine.pci("0000:00:06.0", 0x10DE, driver="nouveau")
    assert "is driven by nouveau" in (await cuda(machine).detect()).detail


async def test_a_sound_device_of_the_same_vendor_is_no_gpu(machine: Machine) -> None:
    machine.pci("0000:00:06.1", 0x10DE, kind=0x040300)
    assert (await cuda(machine).detect()).detail.startswith("No NVIDIA GPU")


async def test_a_container_that_was_not_given_the_gpu_is_told(machine: Machine) -> None:
    first = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)\n"
    machine.put("proc/driver/nvidia/version", first)
    found = await cuda(machine, NVIDIA_VISIBLE_DEVICES="void").detect()
    assert (
        "The NVIDIA driver 580.159.04 is loaded, but there is no /dev/nvidia0 (NVIDIA_VISIBLE_DEVICES='void')"
        in found.detail
    )
    assert "--gpus all" in found.detail


@pytest.mark.parametrize(
    ("value", "count"),
    [("all", 2), ("void", 2), ("", 2), ("1", 2), ("GPU-43544427-5211-0930-9149-f3b8b5fd1401", 2), ("none", 0)],
)
async def test_what_a_container_runtime_was_told_hides_nothing_it_let_in(
    machine: Machine, value: str, count: int
) -> None:
    machine.device_files("nvidia", 2)
    found = await cuda(machine, nvml_report(2), NVIDIA_VISIBLE_DEVICES=value).detect()
    assert count == len(found.devices)
    assert bool(found.detail) == (not count)


async def test_the_file_of_windows_alone_is_no_gpu(machine: Machine) -> None:
    machine.put("dev/dxg")
    assert (await cuda(machine).detect()).detail.startswith("No NVIDIA GPU: /dev/dxg")


async def test_windows_lends_its_gpu(machine: Machine) -> None:
    machine.put("dev/dxg")
    assert 1 == len((await cuda(machine, nvml_report(1)).detect()).devices)


async def test_a_tool_that_fails_is_quoted(machine: Machine) -> None:
    machine.device_files("nvidia", 1)
    smi = machine.tool(
        "nvidia-smi", ("", "NVIDIA-SMI has failed because it couldn't communicate with the driver.\n"), code=9
    )
    found = await cuda(machine, smi=smi).detect()
    assert not found.present
    assert "failed: NVIDIA-SMI has failed because it couldn't communicate with the driver. " in found.detail


async def test_the_tool_lists_mig_instances_where_the_library_is_missing(machine: Machine) -> None:
    machine.device_files("nvidia", 1)
    smi = machine.tool(
        "nvidia-smi",
        ("--query-gpu", RECORDED / "nvidia-smi-query-a100-mig.csv"),
        ("-L", RECORDED / "nvidia-smi-list-a100-mig.txt"),
    )
    assert 2 == len((await cuda(machine, smi=smi).detect()).devices)


# --- who registers


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
    assert ["cuda", "rocm", "musa", "cann", "cpu"] == [
        spec.variant for spec in sorted(specs, key=lambda spec: -spec.priority)
    ]
