"""What a llama.cpp server says of itself when it is asked for its version."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

import attrs

from dmr_backends_llamacpp.runtime import Runtime
from dmr_core.ports.process import ProcessSpec, ProcessSupervisor

__all__ = ["Facts", "Programs"]

_VERSION: Final = re.compile(r"version: (?P<build>\d{1,9})? ?\((?P<commit>[^)]{1,100})\)")
_DEVICES: Final = re.compile(
    r"found [1-9]\d{0,3} (?P<api>CUDA|ROCm|MUSA|CANN|Vulkan) devices?|loaded (?P<loaded>\w+) backend from"
)
_VARIANTS: Final = {"cuda": "cuda", "rocm": "rocm", "hip": "rocm", "musa": "musa", "cann": "cann", "vulkan": "vulkan"}
_TIMEOUT: Final = 3.0
"""Seconds; a build for GPUs initialises their driver before it says anything."""


@attrs.frozen(kw_only=True)
class Facts:
    """``build`` is llama.cpp's running number, 0 where unknown; ``variant`` the accelerator it found at once, if any."""

    commit: str = "unknown"
    build: int = 0
    variant: str = ""


@attrs.define(eq=False)
class Programs:
    """Asks each program once, and again when its file has changed."""

    _processes: ProcessSupervisor
    _known: dict[tuple[str, int, int], Facts] = attrs.field(factory=dict)

    async def ask(self, runtime: Runtime) -> Facts:
        """What ``runtime`` is; a program that does not answer is of an unknown version.

        Raises as :meth:`ProcessSupervisor.start`.
        """
        if not runtime.native:
            return Facts(commit=runtime.origin)
        key = _key(runtime)
        if key not in self._known:
            self._known[key] = await self._ask(runtime)
        return self._known[key]

    def known(self, runtime: Runtime) -> Facts | None:
        """The same without asking."""
        return self._known.get(_key(runtime)) if runtime.native else Facts(commit=runtime.origin)

    async def _ask(self, runtime: Runtime) -> Facts:
        spec = ProcessSpec(
            name="llama.cpp version", argv=(*runtime.command, "--version"), environment=runtime.environment
        )
        process = await self._processes.start(spec)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await process.wait()
        except TimeoutError:
            return Facts()
        finally:
            await process.stop(0.5)
        printed = process.tail()
        version, device = _VERSION.search(printed), None
        for found in _DEVICES.finditer(printed):
            device = device or _VARIANTS.get((found["api"] or found["loaded"]).lower())
        return Facts(
            commit=version["commit"] if version else "unknown",
            build=int(version["build"] or 0) if version else 0,
            variant=device or "",
        )


def _key(runtime: Runtime) -> tuple[str, int, int]:
    try:
        status = Path(runtime.command[0]).stat()
    except OSError:
        return runtime.program, 0, 0
    return runtime.program, status.st_mtime_ns, status.st_size
