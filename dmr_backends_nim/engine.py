"""NIM containers as an engine.

This version registers the backend and answers for its references; it starts no containers yet, and
says so wherever somebody asks it to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig
from dmr_core.errors import BackendNotInstalledError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Engine, LaunchRequest, RunningEngine

__all__ = ["NOT_YET", "NimEngine"]

NOT_YET: Final = "this version of dmr-backends-nim cannot start containers yet"


@attrs.define(eq=False)
class NimEngine(Engine):
    """Looks for the Docker Engine's socket; starting containers is still to come."""

    context: EngineContext
    health_path: str = "/v1/health/ready"

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        docker = self._socket()
        found = "Docker Engine found" if docker.exists() else f"no Docker Engine at {docker}"
        return BackendStatus(BackendState.NOT_INSTALLED, f"{NOT_YET} ({found})")

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`."""
        raise BackendNotInstalledError("nim", NOT_YET)

    def _socket(self) -> Path:
        host = self.context.environment.get("DOCKER_HOST", "")
        return Path(host.removeprefix("unix://")) if host.startswith("unix://") else Path("/var/run/docker.sock")
