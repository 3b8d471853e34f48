"""A third party's engine: repeats the last message. Registered by entry point, like every other."""

import sys

from dmr_backend_echo import server
from dmr_core.domain.artifact import Format
from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine, EngineProcess
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint


class EchoEngine(Engine):
    health_path = "/health"

    def __init__(self, context):
        self.processes = context.processes

    async def status(self):
        return BackendStatus(BackendState.RUNNING, "echo 1.0")

    def check(self, config):
        """Every setting is fine: none is used."""

    async def start(self, request):
        socket = self.processes.socket_path("echo")
        argv = (sys.executable, server.__file__, str(socket), request.alias)
        process = await self.processes.start(ProcessSpec(name="echo", argv=argv))
        return EngineProcess("echo", process, Endpoint(socket=socket), argv)


@hookimpl
def dmr_backends():
    yield BackendSpec(
        name="echo",
        summary="Repeats what it is told",
        factory=EchoEngine,
        formats=frozenset({Format.GGUF}),
        priority=-1,
    )
