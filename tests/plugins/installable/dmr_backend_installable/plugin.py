"""A third party's engine that is installed by the first request that needs it, slowly.

Features: ``INSTALLABLE_ROOT`` is where it is installed; a file ``hold`` there keeps an installation from ending,
``fail`` makes it fail. It stages beside the target and renames, so a kill leaves either the old world or the new one.
"""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

from dmr_backend_installable import server
from dmr_core.domain.artifact import Format
from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.errors import BackendInstallError, BackendNotInstalledError
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine, EngineProcess
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint

STEPS = 10


class InstallableEngine(Engine):
    health_path = "/health"

    def __init__(self, context):
        self.processes = context.processes
        self.root = Path(context.environment["INSTALLABLE_ROOT"])
        self.engine = self.root / "engine"

    async def status(self):
        try:
            version = json.loads((self.engine / "version.json").read_text())
        except OSError:
            return BackendStatus(BackendState.NOT_INSTALLED, "package not installed")
        except ValueError:
            return BackendStatus(BackendState.ERROR, "half an installation")
        return BackendStatus(BackendState.RUNNING, f"installable {version}")

    def check(self, config):
        """Every setting is fine: none is used."""

    async def install(self, version, progress):
        for stale in self.root.glob("staging-*"):
            shutil.rmtree(stale)
        staging = self.root / f"staging-{os.getpid()}"
        staging.mkdir(parents=True)
        try:
            for step in range(STEPS):
                progress(f"downloading installable {version or '1.0'}", step / STEPS)
                (staging / f"part{step}").write_bytes(b"x" * 1000)
                await asyncio.sleep(0.02)
                while step == STEPS // 2 and (self.root / "hold").exists():
                    await asyncio.sleep(0.02)
            if (self.root / "fail").exists():
                raise BackendInstallError("the disk of the mirror is full; try another one")
            shutil.copy(server.__file__, staging / "server.py")
            (staging / "version.json").write_text(json.dumps(version or "1.0"))
            progress("moving it into place", None)
            shutil.rmtree(self.engine, ignore_errors=True)
            staging.rename(self.engine)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    async def uninstall(self):
        shutil.rmtree(self.engine, ignore_errors=True)

    async def start(self, request):
        program = self.engine / "server.py"
        if not program.exists():
            raise BackendNotInstalledError("installable", "package not installed")
        socket = self.processes.socket_path("installable")
        argv = (sys.executable, str(program), str(socket), request.alias)
        process = await self.processes.start(ProcessSpec(name="installable", argv=argv))
        return EngineProcess("installable", process, Endpoint(socket=socket), argv)


@hookimpl
def dmr_backends():
    yield BackendSpec(
        name="installable",
        summary="Comes when it is needed",
        factory=InstallableEngine,
        formats=frozenset({Format.GGUF}),
        priority=-1,
        environment=("INSTALLABLE_ROOT",),
        installs=True,
    )
