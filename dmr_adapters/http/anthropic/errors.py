"""Errors in Anthropic's shape: ``{"type": "error", "error": {"type", "message"}}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

from dmr_adapters.http.errors import message_of, retry_headers, status_of
from dmr_core.errors import DmrError, ModelNotFoundError

__all__ = ["body_of", "engine_error", "error_event", "refusal", "shaped", "type_of"]

_log: Final = logging.getLogger("dmr.http")

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    412: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    507: "overloaded_error",
    529: "overloaded_error",
}
_MAX_MESSAGE: Final = 2000


def type_of(status: int) -> str:
    """The error type Anthropic has for an HTTP status."""
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def body_of(status: int, message: str, **more: object) -> bytes:
    """The body of an error. ``more`` are members of dmr's own beside the two there are; clients pass over them."""
    error = {"type": type_of(status), "message": message, **{key: value for key, value in more.items() if value}}
    return orjson.dumps({"type": "error", "error": error})


def shaped(status: int, message: str, headers: Mapping[str, str] | None = None, **more: object) -> Response:
    """An answer that says what is wrong."""
    return Response(body_of(status, message, **more), status, headers=headers, media_type="application/json")


def refusal(error: BaseException, *, name: str = "") -> Response:
    """The answer for ``error``; ``name`` is the model asked for."""
    status = status_of(error)
    if status == 500:
        _log.error("unexpected error", exc_info=error)
    message = f"Model not found: {name[:100]}" if isinstance(error, ModelNotFoundError) else message_of(error)
    code = error.code if isinstance(error, DmrError) else "internal_error"
    return shaped(status, message, retry_headers(error), code=code, param=getattr(error, "param", None))


def error_event(error: BaseException) -> bytes:
    """The last event of a stream that broke."""
    status = status_of(error)
    code = error.code if isinstance(error, DmrError) else "internal_error"
    return b"event: error\ndata: " + body_of(status, message_of(error), code=code) + b"\n\n"


def engine_error(content: bytes, status: int) -> bytes:
    """An engine's own error, in whichever shape, as Anthropic's. One that has it already is left alone."""
    try:
        value: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content[:_MAX_MESSAGE].decode("utf-8", "replace").strip()
        return body_of(status, text or f"the engine answered with status {status}")
    inner = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(value, dict) and value.get("type") == "error" and isinstance(inner, dict) and "message" in inner:
        return content
    found = inner.get("message") if isinstance(inner, dict) else inner
    message = found if isinstance(found, str) and found else f"the engine answered with status {status}"
    code = inner.get("type") if isinstance(inner, dict) and isinstance(inner.get("type"), str) else None
    return body_of(status, message[:_MAX_MESSAGE], code=code)
