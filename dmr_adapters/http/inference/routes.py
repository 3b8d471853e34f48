"""Which paths are inference, and what they ask for."""

from __future__ import annotations

from typing import Final

import attrs

from dmr_core.domain.engine import EngineMode

__all__ = ["InferenceRoute", "match_inference"]

_ROUTES: Final = {
    "/v1/chat/completions": EngineMode.COMPLETION,
    "/v1/completions": EngineMode.COMPLETION,
    "/v1/messages": EngineMode.COMPLETION,
    "/v1/messages/count_tokens": EngineMode.COMPLETION,
    "/v1/embeddings": EngineMode.EMBEDDING,
    "/v1/images/generations": EngineMode.IMAGE_GENERATION,
    "/rerank": EngineMode.RERANKING,
    "/score": EngineMode.RERANKING,
}


@attrs.frozen
class InferenceRoute:
    """What a path asks for: ``backend`` as named in it, the engine's mode, and the engine's own path."""

    backend: str | None
    mode: EngineMode
    upstream: str


def match_inference(path: str) -> InferenceRoute | None:
    """The inference route of a path: ``/v1/…``, ``/engines/v1/…`` or ``/engines/{backend}/v1/…``, else ``None``."""
    mode = _ROUTES.get(path)
    if mode is not None:
        return InferenceRoute(None, mode, path)
    if not path.startswith("/engines/"):
        return None
    rest = path[8:]
    mode = _ROUTES.get(rest)
    if mode is not None:
        return InferenceRoute(None, mode, rest)
    backend, slash, tail = rest[1:].partition("/")
    mode = _ROUTES.get(slash + tail)
    return InferenceRoute(backend, mode, slash + tail) if mode is not None else None
