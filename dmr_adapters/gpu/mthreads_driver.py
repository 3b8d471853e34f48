"""Asking Moore Threads' driver, by ``mthreads-gmi``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.mthreads_gmi import ARGUMENTS, MthreadsGpu, parse_report
from dmr_adapters.gpu.tool import Outcome, find_tool, run_tool
from dmr_adapters.gpu.visible import select_visible
from dmr_core.domain.gpu import Detection, GpuDevice

__all__ = ["MthreadsDriver"]

_FOLDERS: Final = (Path("/usr/local/musa/bin"),)
_VISIBLE: Final = "MUSA_VISIBLE_DEVICES"


@attrs.frozen(kw_only=True)
class MthreadsDriver:
    """Settings as those of :class:`~dmr_adapters.gpu.musa.MusaDetector`."""

    environ: Mapping[str, str]
    gmi: Path | None
    limit: float

    async def ask(self, files: tuple[str, ...]) -> Detection:
        """What it says of the GPUs whose device files these are."""
        tool = self.gmi or find_tool("mthreads-gmi", _FOLDERS, self.environ.get("PATH", ""))
        if tool is None:
            return self._by_files(
                files, "mthreads-gmi is not here: install the driver's tools, or mount it into the container"
            )
        complaint = ""
        for arguments in ARGUMENTS:
            answer = await run_tool([tool, *arguments], limit=self.limit, environ=self.environ)
            if answer.outcome is Outcome.HUNG:
                return _none(
                    f"{tool} did not answer within {self.limit:g} s: see `dmesg` for messages of mtgpu, and restart the machine if "
                    "that stays so."
                )
            gpus, driver = parse_report(answer.output) if answer.succeeded else ((), "")
            if gpus:
                return self._found(gpus, driver, [])
            complaint = complaint or answer.complaint
        return self._by_files(
            files, f"{tool} told nothing that can be understood ({complaint}): see whether it works by hand"
        )

    def _by_files(self, files: tuple[str, ...], why: str) -> Detection:
        gpus = tuple(MthreadsGpu(index=index, name=f"Moore Threads GPU ({name})") for index, name in enumerate(files))
        return self._found(gpus, "", [f"The GPUs' memory is unknown: {why}."])

    def _found(self, gpus: tuple[MthreadsGpu, ...], driver: str, notes: list[str]) -> Detection:
        value = self.environ.get(_VISIBLE)
        selection = select_visible(value, [gpu.uuid for gpu in gpus])
        if selection.broken and selection.broken != "-1":
            notes.append(f"{_VISIBLE}={value!r}: {selection.broken!r} names no GPU here, or one twice; correct it.")
        elif not selection.kept:
            notes.append(f"{_VISIBLE}={value!r} hides every GPU: unset it to use them.")
        devices = tuple(_device(index, gpus[position], driver) for index, position in enumerate(selection.kept))
        return Detection(variant="musa", devices=devices, detail=" ".join(notes))


def _device(index: int, gpu: MthreadsGpu, driver: str) -> GpuDevice:
    free = max(0, gpu.total - gpu.used) if gpu.total is not None and gpu.used is not None else None
    return GpuDevice(
        index=index,
        name=gpu.name or "Moore Threads GPU",
        memory_total=gpu.total,
        memory_free=free,
        memory_used=gpu.used,
        uuid=gpu.uuid,
        bus=gpu.bus,
        driver=driver,
    )


def _none(detail: str) -> Detection:
    return Detection(variant="musa", detail=detail)
