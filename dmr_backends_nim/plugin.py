"""Registers the NIM backend."""

from __future__ import annotations

from collections.abc import Iterable

from dmr_core.domain.reference import Reference
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.engine import Engine
from dmr_core.ports.model_source import ModelSource

__all__ = ["dmr_backends"]


def _engine(context: EngineContext) -> Engine:
    from dmr_backends_nim.engine import NimEngine  # noqa: PLC0415 - discovery must stay cheap

    return NimEngine(context)


def _source(_context: EngineContext) -> ModelSource:
    from dmr_backends_nim.model_source import NimModelSource  # noqa: PLC0415

    return NimModelSource()


def _claims(reference: Reference) -> bool:
    return reference.registry == "nvcr.io" and reference.repository.startswith("nim/")


@hookimpl
def dmr_backends() -> Iterable[BackendSpec]:
    """The backend ``nim``."""
    yield BackendSpec(
        name="nim",
        summary="NVIDIA NIM containers (nvcr.io/nim/…)",
        factory=_engine,
        environment=("DOCKER_HOST",),
        claims=_claims,
        model_source=_source,
    )
