"""Asking NVIDIA's driver: its library first, in a process of its own, then ``nvidia-smi``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.nvidia_gpu import NvidiaGpu, NvidiaReport, parse_nvml_report, usable_devices
from dmr_adapters.gpu.nvidia_smi import LIST, QUERY, parse_instances, parse_query
from dmr_adapters.gpu.nvidia_trouble import trouble
from dmr_adapters.gpu.tool import Outcome, ToolAnswer, find_tool, run_tool
from dmr_adapters.memory.machine import read_host_memory
from dmr_core.domain.gpu import Detection

__all__ = ["NvidiaDriver"]

_VARIANT: Final = "cuda"
_FOLDERS: Final = (Path("/usr/local/nvidia/bin"), Path("/usr/lib/wsl/lib"), Path("/run/current-system/sw/bin"))


@attrs.frozen(kw_only=True)
class NvidiaDriver:
    """Settings as those of :class:`~dmr_adapters.gpu.cuda.CudaDetector`."""

    dev: Path
    proc: Path
    environ: Mapping[str, str]
    nvml: tuple[str, ...]
    smi: Path | None
    limit: float

    async def ask(self, files: tuple[str, ...]) -> Detection:
        """What it says of the GPUs whose device files these are."""
        answer = await run_tool(
            [*self.nvml, "--seconds", str(int(self.limit) + 1), "--dev", str(self.dev)],
            limit=self.limit,
            environ=self.environ,
        )
        if answer.outcome is Outcome.HUNG:  # whatever else asks the driver would hang as well
            return _none(
                f"The NVIDIA driver did not answer within {self.limit:g} s: see `dmesg` for NVRM messages; restart the machine "
                "if `nvidia-smi` hangs too."
            )
        report = parse_nvml_report(answer.output) if answer.succeeded else None
        if report is None or not report.library:
            if not files:  # Windows' file, of a machine that need not have an NVIDIA GPU
                return _none("No NVIDIA GPU: /dev/dxg is there, but no NVIDIA library comes with it.")
            return await self._ask_tool(files, report, answer)
        if report.fault is not None:
            return _none(trouble(report))
        return await self._found(report)

    async def _ask_tool(self, files: tuple[str, ...], report: NvidiaReport | None, first: ToolAnswer) -> Detection:
        missing = report.missing if report is not None else ""
        why = missing or f"the probe of NVML failed ({first.complaint})"
        tool = self.smi or find_tool("nvidia-smi", _FOLDERS, self.environ.get("PATH", ""))
        answer = await run_tool([tool, *QUERY], limit=self.limit, environ=self.environ) if tool is not None else None
        if answer is None or answer.outcome is Outcome.NOT_STARTED:
            if not missing:
                return await self._by_files(files, f"{why}, and there is no nvidia-smi")
            return _none(
                f"The NVIDIA driver is loaded, but its library libnvidia-ml.so.1 is not here ({missing}): install the driver's "
                "libraries; in a container, use the NVIDIA Container Toolkit (`--gpus all`) with the `utility` capability."
            )
        if answer.outcome is Outcome.HUNG:
            return _none(
                f"{tool} did not answer within {self.limit:g} s: see `dmesg` for NVRM messages, and restart the machine if that stays so."
            )
        found = parse_query(answer.output) if answer.succeeded else None
        if found is None:
            if answer.outcome is Outcome.ENDED and answer.status:
                return _none(
                    f"{tool} failed: {answer.complaint.rstrip('.')}. Reinstall the driver, or restart the machine."
                )
            return await self._by_files(files, f"{why}, and {tool} printed nothing that can be understood")
        if any(gpu.mig for gpu in found.gpus):
            listed = await run_tool([str(tool), *LIST], limit=self.limit, environ=self.environ)
            if not listed.succeeded:
                return await self._by_files(files, f"{tool} could not list the MIG instances ({listed.complaint})")
            found = parse_instances(found, listed.output)
        return await self._found(found)

    async def _by_files(self, files: tuple[str, ...], why: str) -> Detection:
        """What is left where the driver is there and nobody can be asked: a GPU for each device file, memory unknown."""
        report = NvidiaReport(
            gpus=tuple(NvidiaGpu(index=index, name=f"NVIDIA GPU ({name})") for index, name in enumerate(files))
        )
        devices, notes = usable_devices(report, self.environ, None)
        text = f"The GPUs' memory is unknown: {why}. Check that `nvidia-smi` works."
        return Detection(variant=_VARIANT, devices=devices, detail=" ".join([text, *notes]))

    async def _found(self, report: NvidiaReport) -> Detection:
        host = None
        if any(gpu.unified for gpu in report.gpus):
            memory = await asyncio.to_thread(read_host_memory, self.proc.parent)
            host = (memory.total, memory.available) if memory is not None else None
        devices, notes = usable_devices(report, self.environ, host)
        if not report.gpus:
            notes.append("The NVIDIA driver runs, but knows no GPU: see `dmesg` for NVRM messages.")
        return Detection(variant=_VARIANT, devices=devices, detail=" ".join(notes))


def _none(detail: str) -> Detection:
    return Detection(variant=_VARIANT, detail=detail)
