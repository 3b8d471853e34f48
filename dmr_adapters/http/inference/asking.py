"""Small questions to an engine, beside the request that is answered: its tokenizer, its template, its properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from dmr_adapters.http.inference.relay import read_all
from dmr_core.errors import InvalidRequestError, UpstreamError
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest

__all__ = ["ask_engine"]

_HEADERS: Final = ((b"host", b"localhost"), (b"content-type", b"application/json"))
_MAX_ANSWER: Final = 64 * 1024 * 1024


async def ask_engine(transport: Transport, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The object an engine answers to ``POST path``.

    Raises:
        InvalidRequestError: the engine refuses it; says why.
        UpstreamError: it failed.
    """
    response = await transport.send(endpoint, UpstreamRequest("POST", path, _HEADERS, orjson.dumps(body)))
    try:
        content = await read_all(response, limit=_MAX_ANSWER)
    finally:
        await response.aclose()
    try:
        value = orjson.loads(content)
    except (ValueError, RecursionError) as exc:
        raise UpstreamError(f"the engine's answer on {path} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise UpstreamError(f"the engine's answer on {path} is no object")
    if response.status >= 400:
        error = value.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        text = str(message or f"the engine answered with status {response.status}")[:2000]
        raise InvalidRequestError(text) if response.status < 500 else UpstreamError(text)
    return value
