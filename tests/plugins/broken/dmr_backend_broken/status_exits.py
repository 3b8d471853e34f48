import sys

from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec


class LeavingEngine:
    health_path = "/health"

    async def status(self):
        sys.exit(6)


@hookimpl
def dmr_backends():
    yield BackendSpec(name="leaving", summary="never well", factory=lambda context: LeavingEngine())
