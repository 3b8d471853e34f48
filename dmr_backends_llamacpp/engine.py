"""llama.cpp as an engine: one server process per model and mode, on a private unix socket.

The table of its flags takes a while to build, and a service that starts does not wait for it.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from dmr_backends_llamacpp.defaults import DEFAULT_ARGUMENTS
from dmr_backends_llamacpp.placement import TELLING_BUILD, PlacementReader
from dmr_backends_llamacpp.program import Programs
from dmr_backends_llamacpp.runtime import Runtime, Search, find_runtime, is_bundled
from dmr_core.domain.acceleration import EngineProgram, GpuRequirement
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig
from dmr_core.domain.gpu import CPU
from dmr_core.domain.memory import Memory
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import BackendNotInstalledError, EngineExitedError, UpstreamError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Argument, Engine, EngineProcess, LaunchRequest, MemoryRequest, RunningEngine
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint

__all__ = ["LlamaCppEngine"]

_log: Final = logging.getLogger("dmr.llamacpp")

_SOCKET: Final = Path("SOCKET")
"""Stands for the private socket that is made for each start."""


@attrs.define(eq=False)
class LlamaCppEngine(Engine):
    """Runs whichever llama.cpp server :func:`find_runtime` finds, looked for anew at each start."""

    context: EngineContext
    base: tuple[str, ...]
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"
    _programs: Programs = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._programs = Programs(self.context.processes)

    @classmethod
    def create(cls, context: EngineContext) -> LlamaCppEngine:
        """An engine with the operator's settings.

        Raises:
            InvalidConfigurationError: ``LLAMA_ARGS`` says what it must not.
        """
        if not context.environment.get("LLAMA_ARGS", "").strip():
            return cls(context, DEFAULT_ARGUMENTS)
        from dmr_backends_llamacpp.arguments import base_arguments

        bundled = is_bundled(_search(context))
        return cls(context, base_arguments(context.environment.get("LLAMA_ARGS"), bundled=bundled, warn=_log.warning))

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        try:
            runtime = find_runtime(_search(self.context))
        except BackendNotInstalledError as exc:
            return BackendStatus(BackendState.NOT_INSTALLED, exc.remedy)
        facts = await self._programs.ask(runtime)
        program = EngineProgram(path=runtime.program, variant=runtime.variant or facts.variant, reason=runtime.reason)
        return BackendStatus(BackendState.RUNNING, f"llama.cpp {facts.commit}", program=program)

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""
        from dmr_backends_llamacpp.arguments import check_config

        check_config(config, bundled=is_bundled(_search(self.context)))

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`."""
        from dmr_backends_llamacpp.arguments import server_arguments

        runtime = find_runtime(_search(self.context))
        if self._tells(request):
            with suppress(UpstreamError):  # what it cannot be asked it cannot be started for either
                await self._programs.ask(runtime)
        socket = self.context.processes.socket_path("llama")
        command = (*runtime.command, *server_arguments(request, self.base, socket, self._extra(runtime, request)))
        process = await self.context.processes.start(
            ProcessSpec(name="llama.cpp", argv=command, environment=runtime.environment)
        )
        reader = PlacementReader(argv=command, bundled=not runtime.native)
        return EngineProcess("llama.cpp", process, Endpoint(socket=socket), command, reader)

    def estimate(self, request: MemoryRequest) -> Memory:
        """See :class:`Engine`."""
        from dmr_backends_llamacpp.memory import estimate

        # The bundled server is built for the CPU.
        on_device = self.context.variant != CPU and not is_bundled(_search(self.context))
        return estimate(request, self.base, on_device=on_device)

    def arguments(self, request: LaunchRequest) -> tuple[Argument, ...]:
        """See :class:`Engine`."""
        from dmr_backends_llamacpp.arguments import explained_arguments

        environment = self.context.environment
        try:
            runtime = find_runtime(_search(self.context))
        except BackendNotInstalledError:
            runtime = Runtime(command=("llama-server",), origin="not installed", native=True)
        source = Source.ENVIRONMENT if environment.get("LLAMA_SERVER_PATH", "").strip() else Source.DEFAULT
        origin = f"{runtime.origin}: {runtime.reason}" if runtime.reason else runtime.origin
        claim = Claim(runtime.program, source, origin)
        operators = bool(environment.get("LLAMA_ARGS", "").strip())
        extra = self._extra(runtime, request)
        return (
            Argument(words=runtime.command, claim=claim, setting="program"),
            *explained_arguments(request, self.base, _SOCKET, extra, operators=operators),
        )

    def explain(self, failure: EngineExitedError) -> EngineExitedError:
        """See :class:`Engine`."""
        from dmr_backends_llamacpp.diagnosis import explain

        return explain(failure)

    def _extra(self, runtime: Runtime, request: LaunchRequest) -> tuple[tuple[str, str, Claim], ...]:
        """Flags that the accelerator asks for, with the reason; the operator's and a client's own win over them."""
        if not runtime.native:
            return ()
        extra = []
        context = self.context
        if context.forced and context.variant == CPU:
            extra.append(("--device", "none", Claim("none", Source.ENVIRONMENT, f"DMR_OVERRIDE_GPU={CPU}")))
        facts = self._programs.known(runtime)
        if self._tells(request) and facts is not None and facts.build >= TELLING_BUILD:
            extra.append(("--verbosity", "4", Claim("4", Source.RUNNER, "it then tells where it put the model")))
        return tuple(extra)

    def _tells(self, request: LaunchRequest) -> bool:
        """Whether anybody wants to know where it puts the model."""
        return self.context.variant != CPU or request.config.require not in (None, GpuRequirement.NONE)


def _search(context: EngineContext) -> Search:
    return Search(environment=context.environment, variant=context.variant, forced=context.forced)
