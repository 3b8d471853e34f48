"""Errors in Ollama's shape: ``{"error": "…"}``, with the status, or as the last line of a stream that has begun."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

from dmr_adapters.http.errors import message_of, retry_headers, status_of
from dmr_core.errors import BackendNotFoundError, ModelNotFoundError

__all__ = ["client_error", "engine_error", "error_line", "message_for", "refusal", "shaped"]

_log: Final = logging.getLogger("dmr.http")
_AT_FAULT: Final = re.compile(r"is too large to process|input is not supported")
_MAX_MESSAGE: Final = 2000
_MAX_NAME: Final = 100


def shaped(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that says what is wrong."""
    return Response(orjson.dumps({"error": message}), status, headers=headers, media_type="application/json")


def message_for(error: BaseException, name: str = "") -> str:
    """The words for ``error``; ``name`` is the model asked for."""
    if isinstance(error, ModelNotFoundError) and name:
        return f"model {name[:_MAX_NAME]!r} not found"
    if isinstance(error, BackendNotFoundError):
        return "backend not found"
    return message_of(error).encode("utf-8", "replace").decode()


def refusal(error: BaseException, name: str = "") -> Response:
    """The answer for ``error``."""
    status = status_of(error)
    if status == 500:
        _log.error("unexpected error", exc_info=error)
    return shaped(status, message_for(error, name), retry_headers(error))


def error_line(message: str) -> bytes:
    """The last line of a stream that broke."""
    return orjson.dumps({"error": message}) + b"\n"


def client_error(status: int, message: str) -> int:
    """The status of an engine's refusal: llama.cpp answers 500 where it is the request that is at fault."""
    return 400 if status == 500 and _AT_FAULT.search(message) else status


def engine_error(content: bytes, status: int) -> str:
    """What an engine's own error says, in whichever shape it comes."""
    fallback = f"the engine answered with status {status}"
    try:
        value: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content[:_MAX_MESSAGE].decode("utf-8", "replace").strip() or fallback
    inner = value.get("error", value) if isinstance(value, dict) else value
    found = inner.get("message") if isinstance(inner, dict) else inner
    return found[:_MAX_MESSAGE] if isinstance(found, str) and found else fallback
