"""Which paths speak Anthropic's dialect."""

from __future__ import annotations

from typing import Final

import attrs

from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_core.domain.engine import EngineMode

__all__ = ["AnthropicRoute", "match_anthropic"]

_MESSAGES: Final = "/v1/messages"
_COUNT: Final = "/v1/messages/count_tokens"
_PREFIX: Final = "/anthropic"


@attrs.frozen
class AnthropicRoute:
    """What is asked for at ``path``: ``inference`` is the engine's part of it, ``None`` where there is no such page."""

    inference: InferenceRoute | None
    counts: bool = False


def match_anthropic(path: str) -> AnthropicRoute | None:
    """The route of a path: ``/anthropic/…``, ``/v1/messages…`` or ``/engines[/{backend}]/v1/messages…``, else ``None``."""
    if path == _PREFIX or path.startswith(_PREFIX + "/"):
        return _of(None, path.removeprefix(_PREFIX)) or AnthropicRoute(None)
    if _MESSAGES not in path:
        return None
    found = _of(None, path)
    if found is not None or not path.startswith("/engines/"):
        return found
    rest = path[8:]
    found = _of(None, rest)
    if found is None:
        backend, slash, tail = rest[1:].partition("/")
        found = _of(backend, slash + tail)
    return found


def _of(backend: str | None, path: str) -> AnthropicRoute | None:
    if path in (_MESSAGES, _COUNT):
        return AnthropicRoute(InferenceRoute(backend, EngineMode.COMPLETION, path), counts=path == _COUNT)
    return AnthropicRoute(None) if path.startswith(_MESSAGES + "/") else None
