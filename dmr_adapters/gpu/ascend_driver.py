"""Asking Ascend's driver, by ``npu-smi``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.npu_smi import ARGUMENTS, AscendNpu, parse_table
from dmr_adapters.gpu.tool import Outcome, find_tool, run_tool
from dmr_adapters.gpu.visible import select_visible
from dmr_core.domain.gpu import Detection, GpuDevice

__all__ = ["AscendDriver"]

_FOLDERS: Final = (Path("/usr/local/bin"), Path("/usr/local/sbin"), Path("/usr/local/Ascend/driver/tools"))
_VISIBLE: Final = "ASCEND_RT_VISIBLE_DEVICES"


@attrs.frozen(kw_only=True)
class AscendDriver:
    """Settings as those of :class:`~dmr_adapters.gpu.cann.CannDetector`."""

    environ: Mapping[str, str]
    smi: Path | None
    limit: float

    async def ask(self, files: tuple[str, ...]) -> Detection:
        """What it says of the NPUs whose device files these are."""
        tool = self.smi or find_tool("npu-smi", _FOLDERS, self.environ.get("PATH", ""))
        if tool is None:
            return self._by_files(
                files,
                "npu-smi is not here: mount /usr/local/bin/npu-smi, /usr/local/dcmi and /usr/local/Ascend/driver/lib64",
            )
        answer = await run_tool([tool, *ARGUMENTS], limit=self.limit, environ=self.environ)
        if answer.outcome is Outcome.HUNG:
            return _none(
                f"{tool} did not answer within {self.limit:g} s: see `dmesg` for messages of the Ascend driver, and restart the "
                "machine if that stays so."
            )
        said = f"{answer.output}\n{answer.errors}"
        if "dcmi module initialize failed" in said:
            return _none(
                f"{tool} cannot reach the Ascend driver ({answer.complaint}): run as root or as a member of the group HwHiAiUser; "
                "after an upgrade of driver or firmware, restart the machine."
            )
        if "cannot open shared object" in said:
            return _none(
                f"{tool} lacks its libraries ({answer.complaint}): add /usr/local/Ascend/driver/lib64/common and .../driver to "
                "LD_LIBRARY_PATH, or mount /usr/local/Ascend/driver and /usr/local/dcmi."
            )
        npus, driver = parse_table(answer.output)
        if not npus:
            return self._by_files(
                files,
                f"{tool} told nothing that can be understood ({answer.complaint}): see whether `npu-smi info` works",
            )
        notes = [
            f"NPU {npu.card} ({npu.name}) reports the health {npu.health!r}: see `npu-smi info -t health -i {npu.card}`."
            for npu in npus
            if npu.health != "OK"
        ]
        return self._found(npus, driver, notes)

    def _by_files(self, files: tuple[str, ...], why: str) -> Detection:
        npus = tuple(
            AscendNpu(card=index, chip=0, name=f"Ascend NPU ({name})", health="OK") for index, name in enumerate(files)
        )
        return self._found(npus, "", [f"The NPUs' memory is unknown: {why}."])

    def _found(self, npus: tuple[AscendNpu, ...], driver: str, notes: list[str]) -> Detection:
        value = self.environ.get(_VISIBLE)
        selection = select_visible(value, [""] * len(npus))
        if selection.broken and selection.broken != "-1":
            notes.append(f"{_VISIBLE}={value!r}: {selection.broken!r} names no NPU here, or one twice; correct it.")
        elif not selection.kept:
            notes.append(f"{_VISIBLE}={value!r} hides every NPU: unset it to use them.")
        cards = [npu.card for npu in npus]
        devices = tuple(
            _device(index, npus[position], driver, alone=cards.count(npus[position].card) == 1)
            for index, position in enumerate(selection.kept)
        )
        return Detection(variant="cann", devices=devices, detail=" ".join(notes))


def _device(index: int, npu: AscendNpu, driver: str, *, alone: bool) -> GpuDevice:
    name = npu.name if npu.name.startswith("Ascend") else f"Ascend {npu.name}"
    return GpuDevice(
        index=index,
        name=name if alone else f"{name} chip {npu.chip}",
        memory_total=npu.total,
        memory_free=max(0, npu.total - npu.used) if npu.total is not None and npu.used is not None else None,
        memory_used=npu.used,
        bus=npu.bus,
        driver=driver,
        architecture=npu.name if not npu.name.startswith("Ascend") else "",
        parent="" if alone else f"card {npu.card}",
    )


def _none(detail: str) -> Detection:
    return Detection(variant="cann", detail=detail)
