"""Registers the llama.cpp backend."""

from __future__ import annotations

from collections.abc import Iterable

from dmr_core.domain.artifact import Format
from dmr_core.domain.capability import Capabilities, Dialect
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.flags import FlagTable
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.engine import Engine

__all__ = ["dmr_backends"]


def _engine(context: EngineContext) -> Engine:
    from dmr_backends_llamacpp.engine import LlamaCppEngine  # noqa: PLC0415 - discovery must stay cheap

    return LlamaCppEngine.create(context)


def _flags() -> FlagTable:
    from dmr_backends_llamacpp.allowed_flags import CLIENT_FLAGS  # noqa: PLC0415 - as above

    return CLIENT_FLAGS


def _capabilities() -> Capabilities:
    from dmr_backends_llamacpp.capabilities import CAPABILITIES  # noqa: PLC0415 - as above

    return CAPABILITIES


@hookimpl
def dmr_backends() -> Iterable[BackendSpec]:
    """The backend ``llama.cpp``."""
    yield BackendSpec(
        name="llama.cpp",
        summary="GGUF models on llama.cpp, CPU and GPU",
        factory=_engine,
        formats=frozenset({Format.GGUF}),
        modes=frozenset({EngineMode.COMPLETION, EngineMode.EMBEDDING, EngineMode.RERANKING}),
        lacks=frozenset({"/score"}),
        reads_data_alone=True,
        environment=("LLAMA_SERVER_PATH", "LLAMA_ARGS", "PATH", "HOME", "LD_LIBRARY_PATH"),
        section="llamacpp",
        flags=_flags,
        dialects=frozenset({Dialect.OPENAI, Dialect.ANTHROPIC}),
        capabilities=_capabilities,
    )
