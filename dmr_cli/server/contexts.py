"""What each engine is built with."""

from __future__ import annotations

from collections.abc import Callable

from dmr_core.domain.acceleration import Accelerator
from dmr_core.domain.secret import Login
from dmr_core.domain.settings import Settings
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.process import ProcessSupervisor

__all__ = ["engine_contexts"]


def engine_contexts(
    settings: Settings, processes: ProcessSupervisor, accelerator: Accelerator
) -> Callable[[BackendSpec], EngineContext]:
    """Contexts for backends by their specs: each sees the variables that its own spec names."""

    async def login(registry: str) -> Login | None:
        from dmr_cli.server import management  # noqa: PLC0415 - see there

        return await management.find_login(settings, registry)

    def context(spec: BackendSpec) -> EngineContext:
        environment = {name: settings.environment[name] for name in spec.environment if name in settings.environment}
        return EngineContext(
            processes=processes,
            environment=environment,
            variant=accelerator.variant,
            devices=accelerator.devices,
            forced=accelerator.forced,
            login=login,
        )

    return context
