"""Which paths are inference, and what they ask for."""

from __future__ import annotations

from typing import Final

import attrs

from dmr_core.domain.engine import EngineMode

__all__ = ["InferenceRoute", "match_inference"]

_ROUTES: Final = {
    "/v1/chat/completions": EngineMode.COMPLETION,
    "/v1/completions": EngineMode.COMPLETION,
    "/v1/embeddings": EngineMode.EMBEDDING,
    "/v1/images/generations": EngineMode.IMAGE_GENERATION,
    "/rerank": EngineMode.RERANKING,
    "/score": EngineMode.RERANKING,
    "/v1/rerank": EngineMode.RERANKING,
    "/v1/score": EngineMode.RERANKING,
}
_UPSTREAM: Final = {"/v1/rerank": "/rerank", "/v1/score": "/score"}
"""Where engines answer to what else is asked for."""


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
        return InferenceRoute(None, mode, _UPSTREAM.get(path, path))
    if not path.startswith("/engines/"):
        return None
    rest = path[8:]
    mode = _ROUTES.get(rest)
    if mode is not None:
        return InferenceRoute(None, mode, _UPSTREAM.get(rest, rest))
    backend, slash, tail = rest[1:].partition("/")
    mode, asked = _ROUTES.get(slash + tail), slash + tail
    return InferenceRoute(backend, mode, _UPSTREAM.get(asked, asked)) if mode is not None else None
