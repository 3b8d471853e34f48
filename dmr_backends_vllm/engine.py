"""vLLM as an engine: ``vllm serve`` on a private unix socket."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import attrs

from dmr_backends_vllm.arguments import check_config, explained_arguments, serve_arguments
from dmr_backends_vllm.diagnosis import explain
from dmr_backends_vllm.memory import estimate
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig
from dmr_core.domain.memory import Memory
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import BackendNotInstalledError, EngineExitedError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Argument, Engine, EngineProcess, LaunchRequest, MemoryRequest, RunningEngine
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint

__all__ = ["VllmEngine"]

_DEFAULT: Final = Path("/opt/vllm-env/bin/vllm")
_VERSION_FILE: Final = "version"
_SOCKET: Final = Path("SOCKET")
"""Stands for the private socket that is made for each start."""


@attrs.define(eq=False)
class VllmEngine(Engine):
    """Runs the ``vllm`` that ``VLLM_SERVER_PATH``, the container image or ``PATH`` has."""

    context: EngineContext
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        program = self._program()
        if program is None:
            return BackendStatus(BackendState.NOT_INSTALLED, "binary not found")
        try:
            version = (program.parent.parent / _VERSION_FILE).read_text().strip()
        except OSError:
            return BackendStatus(BackendState.RUNNING, "version unknown")
        return BackendStatus(BackendState.RUNNING, f"vllm {version}")

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""
        check_config(config)

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`."""
        program = self._program()
        if program is None:
            # The stock CLI matches "vLLM binary not found".
            raise BackendNotInstalledError(
                "vllm", "vLLM binary not found; install vLLM and set VLLM_SERVER_PATH to its `vllm` program"
            )
        socket = self.context.processes.socket_path("vllm")
        command = (str(program), *serve_arguments(request, socket))
        process = await self.context.processes.start(ProcessSpec(name="vllm", argv=command))
        return EngineProcess("vllm", process, Endpoint(socket=socket), command)

    def estimate(self, request: MemoryRequest) -> Memory | None:
        """See :class:`Engine`."""
        return estimate(request, self.context.variant)

    def arguments(self, request: LaunchRequest) -> tuple[Argument, ...]:
        """See :class:`Engine`."""
        program = str(self._program() or "vllm")
        configured = bool(self.context.environment.get("VLLM_SERVER_PATH", "").strip())
        claim = Claim(program, Source.ENVIRONMENT, "VLLM_SERVER_PATH") if configured else Claim(program, Source.DEFAULT)
        return (
            Argument(words=(program,), claim=claim, setting="program"),
            *explained_arguments(request, _SOCKET),
        )

    def explain(self, failure: EngineExitedError) -> EngineExitedError:
        """See :class:`Engine`."""
        return explain(failure)

    def _program(self) -> Path | None:
        configured = self.context.environment.get("VLLM_SERVER_PATH", "").strip()
        if configured:
            return Path(configured) if os.access(configured, os.X_OK) else None
        if os.access(_DEFAULT, os.X_OK):
            return _DEFAULT
        found = shutil.which("vllm", path=self.context.environment.get("PATH", os.defpath))
        return Path(found) if found else None
