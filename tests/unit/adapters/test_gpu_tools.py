"""What vendors' tools print, and tools that misbehave."""

from __future__ import annotations

import asyncio
import os
import select
from pathlib import Path

import pytest

from dmr_adapters.gpu.cann import CannDetector
from dmr_adapters.gpu.mthreads_gmi import MthreadsGpu, parse_report
from dmr_adapters.gpu.musa import MusaDetector
from dmr_adapters.gpu.npu_smi import AscendNpu, parse_table
from dmr_adapters.gpu.tool import Outcome, ToolAnswer, find_tool, run_tool, tool_environment
from dmr_core.domain.gpu import Detection, GpuDevice
from tests.stand_ins.gpu_machine import GARBAGE, RECORDED, Machine, ascend_table, mthreads_report, recorded

_MIB = 1 << 20
_LONG = 20.0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def musa(machine: Machine, gmi: Path | None, **environ: str) -> MusaDetector:
    return MusaDetector(dev=machine.dev, sys=machine.sys, environ=environ, gmi=gmi)


def cann(machine: Machine, smi: Path | None, **environ: str) -> CannDetector:
    return CannDetector(dev=machine.dev, sys=machine.sys, environ=environ, smi=smi)


def ascend_files(machine: Machine, count: int) -> None:
    machine.device_files("davinci", count, "davinci_manager", "devmm_svm", "hisi_hdc")


async def run(*arguments: str, limit: float = _LONG) -> ToolAnswer:
    return await run_tool(["/bin/sh", "-c", *arguments], limit=limit, environ={})


def is_over(pid: str) -> bool:
    """Whether a process ends, be it reaped or not: one that was killed takes a moment to die, and orphans are not ours."""
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], _LONG)[0])
    finally:
        os.close(descriptor)


# --- running tools


async def test_a_tool_that_ends_has_its_status_and_both_its_texts() -> None:
    assert ToolAnswer(outcome=Outcome.ENDED, status=3, output="a\n", errors="b\n") == await run(
        "echo a; echo b >&2; exit 3"
    )


async def test_a_tool_that_hangs_is_killed_with_its_children(machine: Machine) -> None:
    pids = machine.root / "pids"
    answer = await run(f"sleep 600 & echo $! $$ > {pids}; wait", limit=0.3)
    assert Outcome.HUNG is answer.outcome
    for pid in pids.read_text().split():
        assert is_over(pid)


async def test_a_tool_that_ignores_signals_is_killed() -> None:
    assert Outcome.HUNG is (await run("trap '' TERM INT HUP; while :; do sleep 1; done", limit=0.3)).outcome


async def test_a_tool_is_over_when_it_ends_though_its_child_holds_the_output() -> None:
    answer = await run("sleep 600 & echo done")
    assert (Outcome.ENDED, 0, "done\n") == (answer.outcome, answer.status, answer.output)


async def test_a_tool_that_closes_its_output_is_still_waited_for() -> None:
    answer = await run("exec >&- 2>&-; sleep 0.1; exit 4")
    assert (Outcome.ENDED, 4) == (answer.outcome, answer.status)


async def test_a_tool_that_prints_without_end_is_stopped() -> None:
    answer = await run("while :; do printf '%04096d' 0; done")
    assert Outcome.TOO_MUCH is answer.outcome
    assert 4 << 20 >= len(answer.output)


async def test_a_tool_that_complains_without_end_is_read_on() -> None:
    answer = await run("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo fine")
    assert (0, "fine\n", 65536) == (answer.status, answer.output, len(answer.errors))


async def test_a_tool_that_is_not_there_is_an_answer(machine: Machine) -> None:
    answer = await run_tool([machine.root / "nothing"], limit=_LONG, environ={})
    assert Outcome.NOT_STARTED is answer.outcome
    assert "cannot be run" in answer.complaint


async def test_a_cancelled_tool_is_killed(machine: Machine) -> None:
    started = machine.root / "started"
    os.mkfifo(started)
    work = asyncio.ensure_future(run(f"echo $$ > {started}; exec sleep 600"))
    pid = await asyncio.to_thread(started.read_text)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert is_over(pid.strip())


def test_a_tool_learns_no_secret() -> None:
    environ = {"HF_TOKEN": "x", "LD_LIBRARY_PATH": "/lib/a", "LD_PRELOAD": "/x.so", "HOME": "/root", "PATH": "/evil"}
    kept = tool_environment(environ)
    assert ("C", "/lib/a") == (kept["LC_ALL"], kept["LD_LIBRARY_PATH"])
    assert {"LC_ALL", "LD_LIBRARY_PATH", "PATH"} == set(kept)
    assert "/evil" not in kept["PATH"]


def test_a_tool_is_found_in_its_folders_before_the_path(machine: Machine) -> None:
    for folder in ("a", "b"):
        machine.put(f"{folder}/vendor-smi").chmod(0o755)
    machine.put("c/vendor-smi")  # not executable
    (machine.root / "d/vendor-smi").mkdir(parents=True)
    a, b, c, d = (machine.root / name for name in "abcd")
    assert a / "vendor-smi" == find_tool("vendor-smi", (c, d, a), f"{b}")
    assert b / "vendor-smi" == find_tool("vendor-smi", (), f"relative:{c}:{d}:{b}")
    assert find_tool("vendor-smi", (), "a:.:") is None


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (ToolAnswer(outcome=Outcome.ENDED, status=3), "exit status 3"),
        (ToolAnswer(outcome=Outcome.ENDED, status=3, output="\n out \n", errors=" \n"), "out"),
        (
            ToolAnswer(outcome=Outcome.ENDED, status=3, output="out", errors="\n\tred\x1b[0m  alert\nmore"),
            "red[0m alert",
        ),
        (ToolAnswer(outcome=Outcome.TOO_MUCH), "printed too much"),
    ],
)
def test_a_complaint_is_one_line(answer: ToolAnswer, complaint: str) -> None:
    assert complaint == answer.complaint


# --- Moore Threads


async def test_moore_threads_gpus_are_told_in_full(machine: Machine) -> None:
    machine.device_files("mtgpu.", 2)
    gmi = machine.tool("mthreads-gmi", ("-q --json", RECORDED / "mthreads-gmi-s4000.json"))
    found = await musa(machine, gmi).detect()
    assert "" == found.detail
    assert found.devices[1] == GpuDevice(
        index=1,
        name="MTT S4000",
        memory_total=49152 * _MIB,
        memory_free=24263 * _MIB,
        memory_used=24889 * _MIB,
        uuid="8a1d6a3e-1111-4c5e-9a40-1ed500000001",
        bus="00000000:3a:00.0",
        driver="3.3.5-server",
    )


async def test_a_tool_too_old_for_json_is_read_as_text(machine: Machine) -> None:
    machine.device_files("mtgpu.", 1)
    gmi = machine.tool(
        "mthreads-gmi", ("-q --json", "unknown option: --json\n"), ("-q", RECORDED / "mthreads-gmi-s80.txt")
    )
    found = await musa(machine, gmi).detect()
    assert [("MTT S80", 16384 * _MIB, 16297 * _MIB, "2.7.0")] == [
        (device.name, device.memory_total, device.memory_free, device.driver) for device in found.devices
    ]


def test_the_text_of_the_tool_has_what_its_object_has() -> None:
    gpu = MthreadsGpu(
        index=0,
        name="MTT S80",
        uuid="77777777-1111-4c5e-9a40-1ed500000080",
        bus="00000000:01:00.0",
        total=16384 * _MIB,
        used=87 * _MIB,
    )
    assert ((gpu,), "2.7.0") == parse_report(recorded("mthreads-gmi-s80.txt"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"GPU": 3}',
        '{"GPU": [null, 1, {}]}',
        '{"GPU": [{"Index": "0", "FB Memory Usage": {"Total": "lots"}}]}',
        "GPU0\n",
        "GPU0\n Memory : ok\n",
        "[" * 100_000,
        "GPU0" + " " * 100_000 + ":",
        GARBAGE.decode("latin-1"),
    ],
)
def test_nonsense_is_no_moore_threads_gpu(text: str) -> None:
    assert () == parse_report(text)[0]


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        ("1", ["01"]),
        ("1,0", ["01", "00"]),
        ("", []),
        ("-1", []),
        ("9", []),
        ("8a1d6a3e-1111-4c5e-9a40-1ed500000001", ["01"]),
    ],
)
async def test_a_variable_chooses_moore_threads_gpus(machine: Machine, value: str, indices: list[str]) -> None:
    machine.device_files("mtgpu.", 2)
    gmi = machine.tool("mthreads-gmi", ("-q --json", mthreads_report(2)))
    found = await musa(machine, gmi, MUSA_VISIBLE_DEVICES=value).detect()
    assert indices == [device.uuid[-2:] for device in found.devices]
    assert bool(found.detail) == (not indices)


async def test_a_moore_threads_gpu_without_its_driver_is_told(machine: Machine) -> None:
    machine.pci("0000:2a:00.0", 0x1ED5)
    assert (
        "There is a Moore Threads GPU at 0000:2a:00.0, but no /dev/mtgpu.0"
        in (await musa(machine, None).detect()).detail
    )


# --- Ascend


async def test_ascend_npus_are_told_in_full(machine: Machine) -> None:
    ascend_files(machine, 2)
    found = await cann(machine, machine.tool("npu-smi", ("info", RECORDED / "npu-smi-910b3.txt"))).detect()
    assert "" == found.detail
    assert found.devices[1] == GpuDevice(
        index=1,
        name="Ascend 910B3",
        memory_total=65536 * _MIB,
        memory_free=13222 * _MIB,
        memory_used=52314 * _MIB,
        bus="0000:C2:00.0",
        driver="24.1.rc1",
        architecture="910B3",
    )


async def test_both_chips_of_a_card_are_devices(machine: Machine) -> None:
    ascend_files(machine, 2)
    found = await cann(machine, machine.tool("npu-smi", ("info", RECORDED / "npu-smi-310p3-duo.txt"))).detect()
    assert [("Ascend 310P3 chip 0", 44280 * _MIB, "card 2"), ("Ascend 310P3 chip 1", 43693 * _MIB, "card 2")] == [
        (device.name, device.memory_total, device.parent) for device in found.devices
    ]


def test_a_chip_whose_name_is_a_number_is_one() -> None:
    text = "| 0     310    | OK    | 12.8   57   0 / 969 |\n| 0     0      | 0000:05:00.0 | 0   2703 / 8192 |\n"
    npu = AscendNpu(card=0, chip=0, name="310", health="OK", bus="0000:05:00.0", total=8192 * _MIB, used=2703 * _MIB)
    assert ((npu,), "") == parse_table(text)


def test_processes_are_no_chips() -> None:
    assert 2 == len(parse_table(recorded("npu-smi-910b3.txt"))[0])


@pytest.mark.parametrize(
    "text", ["", "|||\n", "| 0 | 0000:05:00.0 | 1 / 2 |\n", "| 0 910B | OK | x |\n", GARBAGE.decode("latin-1")]
)
def test_nonsense_is_no_npu(text: str) -> None:
    assert () == parse_table(text)[0]


async def test_an_npu_that_is_not_well_is_used_and_told(machine: Machine) -> None:
    ascend_files(machine, 2)
    table = ascend_table(2).replace("| OK ", "| Alarm ", 1)
    found = await cann(machine, machine.tool("npu-smi", ("info", table))).detect()
    assert 2 == len(found.devices)
    assert "NPU 0 (910B3) reports the health 'Alarm': see `npu-smi info -t health -i 0`." == found.detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (recorded("npu-smi-no-driver.txt"), "a member of the group HwHiAiUser"),
        (
            "npu-smi: error while loading shared libraries: libc_sec.so: cannot open shared object file\n",
            "LD_LIBRARY_PATH",
        ),
    ],
)
async def test_a_tool_that_cannot_reach_its_driver_is_told(machine: Machine, text: str, said: str) -> None:
    ascend_files(machine, 1)
    found = await cann(machine, machine.tool("npu-smi", ("info", text), code=255)).detect()
    assert not found.present
    assert said in found.detail


async def test_a_container_with_an_npu_and_nothing_beside_it_is_told(machine: Machine) -> None:
    machine.device_files("davinci", 1, "davinci_manager")
    found = await cann(machine, None).detect()
    assert not found.present
    assert "There is /dev/davinci0, but not /dev/devmm_svm, /dev/hisi_hdc" in found.detail


async def test_the_drivers_own_file_is_no_npu(machine: Machine) -> None:
    ascend_files(machine, 0)
    assert await cann(machine, None).detect() == Detection(
        variant="cann", detail="No Ascend NPU: there is no /dev/davinci0, and none on the PCI bus."
    )


async def test_an_npu_without_its_driver_is_told_from_the_boards_display(machine: Machine) -> None:
    machine.pci("0000:05:00.0", 0x19E5, kind=0x030000)
    assert (await cann(machine, None).detect()).detail.startswith("No Ascend NPU")
    machine.pci("0000:c1:00.0", 0x19E5, kind=0x120000)
    assert "There is an Ascend NPU at 0000:c1:00.0, but no /dev/davinci0" in (await cann(machine, None).detect()).detail


@pytest.mark.parametrize(("value", "buses"), [("1", ["C2"]), ("1,0", ["C2", "C1"]), ("", []), ("5", [])])
async def test_a_variable_chooses_npus(machine: Machine, value: str, buses: list[str]) -> None:
    ascend_files(machine, 2)
    smi = machine.tool("npu-smi", ("info", ascend_table(2)))
    found = await cann(machine, smi, ASCEND_RT_VISIBLE_DEVICES=value).detect()
    assert buses == [device.bus[5:7] for device in found.devices]
    assert bool(found.detail) == (not buses)
