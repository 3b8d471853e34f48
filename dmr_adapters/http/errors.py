"""Conditions as HTTP: one table for statuses, and the two shapes of bodies.

Clients of OpenAI-shaped routes get ``{"error": {"message", "type", "code", "param"}}``. The stock CLI
prints a body verbatim and matches some texts, so it gets the plain text (``spec`` of its wire
protocol: errors are the message and a newline); so does everybody on the management routes.
"""

from __future__ import annotations

import json
import logging
from typing import Final

import orjson
from starlette.responses import Response

from dmr_core import errors

__all__ = [
    "error_response",
    "is_stock_cli",
    "message_of",
    "not_found_text",
    "openai_error",
    "openai_type",
    "plain_text",
    "retry_headers",
    "sse_error",
    "status_of",
]

_log: Final = logging.getLogger("dmr.http")

# The first class in an error's ancestry that is listed decides.
_STATUS: Final[dict[type[BaseException], int]] = {
    errors.BodyTooLargeError: 413,
    errors.RequestTimeoutError: 408,
    errors.UnsupportedFormatError: 422,
    errors.InvalidRequestError: 400,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.PreconditionError: 412,
    errors.EngineFlagError: 400,
    errors.EngineVersionError: 412,
    errors.EngineNotAcceleratedError: 502,
    errors.EngineUnusableError: 412,
    errors.ModelCorruptError: 422,
    errors.EngineOutOfMemoryError: 507,
    errors.UpstreamError: 502,
    errors.UnavailableError: 503,
    errors.DeadlineError: 504,
    errors.InsufficientResourcesError: 507,
    errors.DmrError: 500,
}
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "invalid_request_error",
    409: "conflict_error",
    412: "precondition_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for anything that is no condition of ours."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def is_stock_cli(user_agent: str) -> bool:
    """Whether the request comes from the ``docker model`` CLI."""
    return "docker-model-cli/" in user_agent


def message_of(error: BaseException) -> str:
    """What to tell; nothing of a bug's inside leaves the process."""
    return error.message if isinstance(error, errors.DmrError) else "internal error"


def openai_type(status: int) -> str:
    """The ``type`` of an error with this status."""
    return _TYPES.get(status, "server_error")


def openai_error(error: BaseException, status: int, message: str | None = None) -> bytes:
    """The body of an error on an OpenAI-shaped route."""
    return orjson.dumps(
        {
            "error": {
                "message": message or message_of(error),
                "type": openai_type(status),
                "code": error.code if isinstance(error, errors.DmrError) else "internal_error",
                "param": getattr(error, "param", None),
            }
        }
    )


def plain_text(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """A plain-text error as the stock CLI expects it."""
    return Response(
        message + "\n",
        status,
        headers={"x-content-type-options": "nosniff", **(headers or {})},
        media_type="text/plain; charset=utf-8",
    )


def retry_headers(error: BaseException) -> dict[str, str]:
    """``Retry-After`` for what may work later."""
    if isinstance(error, errors.UnavailableError):
        return {"retry-after": str(max(1, round(error.retry_after or 1)))}
    return {}


def error_response(error: BaseException, *, openai: bool, message: str | None = None) -> Response:
    """The answer for ``error``; ``message`` replaces its text where clients rely on another."""
    status = status_of(error)
    if status == 500:
        _log.error("unexpected error", exc_info=error)
    if openai:
        return Response(
            openai_error(error, status, message), status, headers=retry_headers(error), media_type="application/json"
        )
    if isinstance(error, errors.BodyTooLargeError):
        status = 400  # what the reference answers outside the OpenAI shape
    return plain_text(message or message_of(error), status, retry_headers(error))


def sse_error(error: BaseException) -> bytes:
    """The last event of a stream that broke: typed, so that SDKs raise instead of stopping silently."""
    return b"data: " + openai_error(error, status_of(error)) + b"\n\n"


def not_found_text(name: str) -> str:
    """What clients of the reference know on inference and OpenAI routes; its double quoting is part of it.

    Control characters of the name are escaped, and it is cut at 100 characters.
    """
    text = json.dumps(name, ensure_ascii=False)[1:-1]
    shown = f'"{text}"' if len(text) <= 100 else f'"{text[:100]}"...[truncated]'
    return f"error while getting model: get model '{shown}': model not found"
