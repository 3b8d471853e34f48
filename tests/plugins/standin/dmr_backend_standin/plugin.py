"""One backend per directory of ``STANDIN_ENGINES``, named after it; see ``tests/stand_ins/standin_install.py``."""

import functools
import os
from pathlib import Path

from dmr_core.domain.artifact import Format
from dmr_core.domain.engine import BackendState, BackendStatus, EngineMode
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine, EngineProcess
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint


class StandIn(Engine):
    health_path = "/health"
    metrics_path = "/metrics"

    def __init__(self, program, context):
        self.program = program
        self.processes = context.processes

    async def status(self):
        return BackendStatus(BackendState.RUNNING, "stand-in")

    def check(self, config):
        """Every setting is fine: none is used."""

    async def start(self, request):
        socket = self.processes.socket_path("standin")
        flags = ("--model", str(request.bundle.gguf), "--host", str(socket), "--alias", request.alias)
        argv = (str(self.program), *flags)
        process = await self.processes.start(ProcessSpec(name=self.program.parent.name, argv=argv))
        return EngineProcess(self.program.parent.name, process, Endpoint(socket=socket), argv)


@hookimpl
def dmr_backends():
    for program in sorted(Path(os.environ["STANDIN_ENGINES"]).glob("*/llama-server")):
        yield BackendSpec(
            name=program.parent.name,
            summary="Repeats what it is told, and misbehaves on demand",
            factory=functools.partial(StandIn, program),
            formats=frozenset({Format.GGUF}),
            modes=frozenset({EngineMode.COMPLETION, EngineMode.EMBEDDING}),
            priority=-1,
        )
