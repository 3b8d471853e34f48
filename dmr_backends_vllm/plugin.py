"""Registers the vLLM backend."""

from __future__ import annotations

from collections.abc import Iterable

from dmr_backends_vllm.surroundings import PASSED_ON
from dmr_core.domain.artifact import Format
from dmr_core.domain.capability import Capabilities, Dialect
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.flags import FlagTable
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.engine import Engine

__all__ = ["dmr_backends"]


def _engine(context: EngineContext) -> Engine:
    from dmr_backends_vllm.engine import VllmEngine  # noqa: PLC0415 - discovery must stay cheap

    return VllmEngine.create(context)


def _flags() -> FlagTable:
    from dmr_backends_vllm.allowed_flags import CLIENT_FLAGS  # noqa: PLC0415 - as above

    return CLIENT_FLAGS


def _capabilities() -> Capabilities:
    from dmr_backends_vllm.capabilities import CAPABILITIES  # noqa: PLC0415 - as above

    return CAPABILITIES


@hookimpl
def dmr_backends() -> Iterable[BackendSpec]:
    """The backend ``vllm``."""
    yield BackendSpec(
        name="vllm",
        summary="Safetensors models on vLLM",
        factory=_engine,
        formats=frozenset({Format.SAFETENSORS}),
        modes=frozenset({EngineMode.COMPLETION, EngineMode.EMBEDDING, EngineMode.RERANKING}),
        priority=10,
        environment=("VLLM_SERVER_PATH", "VLLM_ARGS", "PATH", *PASSED_ON),
        lacks=frozenset({"/images/generations"}),
        dialects=frozenset({Dialect.OPENAI, Dialect.ANTHROPIC}),
        section="vllm",
        platforms=frozenset({"linux", "darwin/arm64"}),
        # The stock CLI matches "vLLM binary not found".
        remedy="vLLM binary not found; install vLLM and set VLLM_SERVER_PATH to its `vllm` program",
        flags=_flags,
        capabilities=_capabilities,
    )
