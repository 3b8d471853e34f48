"""Registers the NIM backend."""

from __future__ import annotations

from collections.abc import Iterable

from dmr_core.domain.engine import EngineMode
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.engine import Engine
from dmr_core.ports.model_source import ModelSource

__all__ = ["dmr_backends"]


def _engine(context: EngineContext) -> Engine:
    from dmr_backends_nim.docker_engine import DockerEngine  # noqa: PLC0415 - discovery must stay cheap
    from dmr_backends_nim.engine import NimEngine  # noqa: PLC0415
    from dmr_backends_nim.settings import NimSettings  # noqa: PLC0415

    settings = NimSettings.read(context.environment)
    return NimEngine(settings, context, DockerEngine(settings.docker))


def _source(context: EngineContext) -> ModelSource:
    from dmr_backends_nim.docker_engine import DockerEngine  # noqa: PLC0415 - as above
    from dmr_backends_nim.model_source import NimModelSource  # noqa: PLC0415
    from dmr_backends_nim.settings import NimSettings  # noqa: PLC0415

    settings = NimSettings.read(context.environment)
    return NimModelSource(settings, context, DockerEngine(settings.docker))


@hookimpl
def dmr_backends() -> Iterable[BackendSpec]:
    """The backend ``nim``."""
    yield BackendSpec(
        name="nim",
        summary="NVIDIA NIM containers (nvcr.io/nim/…)",
        factory=_engine,
        modes=frozenset({EngineMode.COMPLETION, EngineMode.EMBEDDING, EngineMode.RERANKING}),
        environment=(
            "DMR_NIM_PREFIX",
            "DMR_NIM_START_TIMEOUT",
            "DMR_NIM_ON_EXIT",
            "LOCAL_NIM_CACHE",
            "NGC_API_KEY",
            "DOCKER_HOST",
            "DOCKER_CONTEXT",
            "DOCKER_CONFIG",
            "XDG_RUNTIME_DIR",
            "HOME",
        ),
        model_source=_source,
    )
