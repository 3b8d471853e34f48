"""llama.cpp as an engine: one server process per model and mode, on a private unix socket."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_backends_llamacpp.arguments import base_arguments, check_config, explained_arguments, server_arguments
from dmr_backends_llamacpp.diagnosis import explain
from dmr_backends_llamacpp.memory import estimate
from dmr_backends_llamacpp.runtime import Runtime, find_runtime
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig
from dmr_core.domain.gpu import CPU
from dmr_core.domain.memory import Memory
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import BackendNotInstalledError, EngineExitedError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Argument, Engine, EngineProcess, LaunchRequest, MemoryRequest, RunningEngine
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint

__all__ = ["LlamaCppEngine"]

_log: Final = logging.getLogger("dmr.llamacpp")

_VERSION: Final = re.compile(r"version: .*?\((?P<commit>[^)]*)\)")
_VERSION_TIMEOUT: Final = 3.0
_SOCKET: Final = Path("SOCKET")
"""Stands for the private socket that is made for each start."""


@attrs.define(eq=False)
class LlamaCppEngine(Engine):
    """Runs whichever llama.cpp server :func:`find_runtime` finds, looked for anew at each start."""

    context: EngineContext
    base: tuple[str, ...]
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"
    _versions: dict[tuple[str, ...], str] = attrs.field(factory=dict)

    @classmethod
    def create(cls, context: EngineContext) -> LlamaCppEngine:
        """An engine with the operator's settings.

        Raises:
            InvalidConfigurationError: ``LLAMA_ARGS`` says what it must not.
        """
        base = base_arguments(
            context.environment.get("LLAMA_ARGS"), bundled=_bundled(context.environment), warn=_log.warning
        )
        return cls(context, base)

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        try:
            runtime = find_runtime(self.context.environment)
        except BackendNotInstalledError as exc:
            return BackendStatus(BackendState.NOT_INSTALLED, exc.remedy)
        return BackendStatus(BackendState.RUNNING, f"llama.cpp {await self._version(runtime)}")

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""
        check_config(config, bundled=_bundled(self.context.environment))

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`."""
        runtime = find_runtime(self.context.environment)
        socket = self.context.processes.socket_path("llama")
        command = (*runtime.command, *server_arguments(request, self.base, socket))
        process = await self.context.processes.start(ProcessSpec(name="llama.cpp", argv=command))
        return EngineProcess("llama.cpp", process, Endpoint(socket=socket), command)

    def estimate(self, request: MemoryRequest) -> Memory:
        """See :class:`Engine`."""
        # The bundled server is built for the CPU.
        on_device = self.context.variant != CPU and not _bundled(self.context.environment)
        return estimate(request, self.base, on_device=on_device)

    def arguments(self, request: LaunchRequest) -> tuple[Argument, ...]:
        """See :class:`Engine`."""
        environment = self.context.environment
        try:
            runtime = find_runtime(environment)
        except BackendNotInstalledError:
            runtime = Runtime(("llama-server",), "not installed", native=True)
        source = Source.ENVIRONMENT if environment.get("LLAMA_SERVER_PATH", "").strip() else Source.DEFAULT
        claim = Claim(" ".join(runtime.command), source, runtime.origin)
        operators = bool(environment.get("LLAMA_ARGS", "").strip())
        return (
            Argument(words=runtime.command, claim=claim, setting="program"),
            *explained_arguments(request, self.base, _SOCKET, operators=operators),
        )

    def explain(self, failure: EngineExitedError) -> EngineExitedError:
        """See :class:`Engine`."""
        return explain(failure)

    async def _version(self, runtime: Runtime) -> str:
        """The commit a server says it was built from; asked once per program."""
        if not runtime.native:
            return runtime.origin
        if runtime.command not in self._versions:
            self._versions[runtime.command] = await self._ask_version(runtime)
        return self._versions[runtime.command]

    async def _ask_version(self, runtime: Runtime) -> str:
        process = await self.context.processes.start(
            ProcessSpec(name="llama.cpp version", argv=(*runtime.command, "--version"))
        )
        try:
            async with asyncio.timeout(_VERSION_TIMEOUT):
                await process.wait()
        except TimeoutError:
            return "unknown"
        finally:
            await process.stop(0.5)
        found = _VERSION.search(process.tail())
        return found["commit"] if found else "unknown"


def _bundled(environment: Mapping[str, str]) -> bool:
    """Whether the server that came with dmr would run, which has not every flag of a native one."""
    try:
        return not find_runtime(environment).native
    except BackendNotInstalledError:
        return False
