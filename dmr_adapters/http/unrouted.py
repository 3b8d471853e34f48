"""Requests that no route answers, in the shape of errors that belongs to their path."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.edge.dialect import Dialect, dialect_of
from dmr_adapters.http.errors import error_response, is_stock_cli, openai_type, plain_text
from dmr_adapters.http.inference.routes import match_inference

__all__ = ["condition", "method_not_allowed", "not_found"]

_SHAPED: Final = frozenset({Dialect.OPENAI, Dialect.RESPONSES})


async def not_found(request: Request, _exc: Exception) -> Response:
    """There is nothing at this path; or there is, and it is not asked for in this way."""
    path = request.url.path
    if _in_openai_shape(request):
        if match_inference(path) is not None:
            return _refused(405, f"{request.method} is not allowed on {path[:200]}; use POST", {"allow": "POST"})
        return _refused(404, f"there is nothing at {path[:200]}", {})
    owned = path.startswith(("/models", "/engines", "/v1"))
    return plain_text("not found" if owned else "404 page not found", 404)


async def method_not_allowed(request: Request, exc: HTTPException) -> Response:
    """On the reference's catch-all routers a wrong method is a 404, and the stock CLI gets that."""
    headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
    path = request.url.path
    if _in_openai_shape(request):
        return _refused(
            405, f"{request.method} is not allowed on {path[:200]}; use {headers.get('allow', 'another')}", headers
        )
    if path.startswith(("/models", "/engines", "/v1", "/rerank", "/score")):
        return plain_text("not found", 404)
    return plain_text("Method Not Allowed", 405, headers)


async def condition(request: Request, exc: Exception) -> Response:
    """A handler gave up."""
    return error_response(exc, openai=_in_openai_shape(request))


def _in_openai_shape(request: Request) -> bool:
    return dialect_of(request.url.path) in _SHAPED and not is_stock_cli(request.headers.get("user-agent", ""))


def _refused(status: int, message: str, headers: dict[str, str]) -> Response:
    code = "method_not_allowed" if status == 405 else "not_found"
    kind = "invalid_request_error" if status == 405 else openai_type(status)
    error = {"message": message, "type": kind, "code": code, "param": None}
    return Response(orjson.dumps({"error": error}), status, headers=headers, media_type="application/json")
