"""vLLM as an engine: ``vllm serve`` on a private unix socket."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import attrs

from dmr_backends_vllm.arguments import check_config, explained_arguments, serve_arguments
from dmr_backends_vllm.installation import OLDEST, VARIABLE, find_installation
from dmr_backends_vllm.memory import estimate
from dmr_backends_vllm.placement import read_placement
from dmr_backends_vllm.shape import Shape, read_shape
from dmr_backends_vllm.surroundings import engine_environment, operator_arguments
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig
from dmr_core.domain.gpu import CPU
from dmr_core.domain.memory import Memory
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import BackendNotInstalledError, EngineExitedError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Argument, Engine, EngineProcess, LaunchRequest, MemoryRequest, RunningEngine
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint

__all__ = ["VllmEngine"]

_SOCKET: Final = Path("SOCKET")
"""Stands for the private socket that is made for each start."""


@attrs.define(eq=False)
class VllmEngine(Engine):
    """Runs the ``vllm`` that :func:`find_installation` finds; ``operators`` are the flags of ``VLLM_ARGS``."""

    context: EngineContext
    operators: tuple[Argument, ...] = ()
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"

    @classmethod
    def create(cls, context: EngineContext) -> VllmEngine:
        """An engine with the operator's flags.

        Raises:
            InvalidConfigurationError: ``VLLM_ARGS`` says what it must not.
        """
        return cls(context, operator_arguments(context.environment.get("VLLM_ARGS")))

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        try:
            found = find_installation(self.context.environment)
        except BackendNotInstalledError as exc:
            return BackendStatus(BackendState.NOT_INSTALLED, exc.remedy.removeprefix("vLLM "))
        version = f"vllm {found.version}" if found.version else "version unknown"
        old = f" (too old: {'.'.join(map(str, OLDEST))} or newer is needed)" if found.too_old else ""
        return BackendStatus(BackendState.RUNNING, version + old)

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""
        check_config(config)

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`."""
        found = find_installation(self.context.environment)
        found.check()
        socket = self.context.processes.socket_path("vllm")
        words = serve_arguments(request, socket, operators=self.operators, devices=self._devices)
        command = (str(found.program), *words)
        spec = ProcessSpec(name="vllm", argv=command, environment=self._environment(request))
        process = await self.context.processes.start(spec)
        layers, offloaded = self._shape(request).layers, any("--cpu-offload-gb" in word for word in words)
        placement = partial(read_placement, layers=layers, offloaded=offloaded)
        return EngineProcess("vllm", process, Endpoint(socket=socket), command, placement)

    def estimate(self, request: MemoryRequest) -> Memory | None:
        """See :class:`Engine`."""
        return estimate(request, self.context.variant)

    def arguments(self, request: LaunchRequest) -> tuple[Argument, ...]:
        """See :class:`Engine`."""
        try:
            program = str(find_installation(self.context.environment).program)
        except BackendNotInstalledError:
            program = "vllm"
        configured = bool(self.context.environment.get(VARIABLE, "").strip())
        claim = Claim(program, Source.ENVIRONMENT, VARIABLE) if configured else Claim(program, Source.DEFAULT)
        return (
            Argument(words=(program,), claim=claim, setting="program"),
            *explained_arguments(request, _SOCKET, operators=self.operators, devices=self._devices),
        )

    def explain(self, failure: EngineExitedError) -> EngineExitedError:
        """See :class:`Engine`."""
        # Its patterns take a tenth of the service's start to compile, and are for engines that failed.
        from dmr_backends_vllm.diagnosis import explain  # noqa: PLC0415

        return explain(failure)

    @property
    def _devices(self) -> int:
        return len(self.context.devices) if self.context.variant != CPU else 0

    def _environment(self, request: LaunchRequest) -> dict[str, str]:
        size = request.config.context_size
        context = size if size is not None and size > 0 else None
        return engine_environment(self.context.environment, self.context.variant, self._shape(request), context)

    @staticmethod
    def _shape(request: LaunchRequest) -> Shape:
        weights = request.bundle.safetensors
        return read_shape(weights.parent) if weights is not None else Shape()
