"""Refusals in the words of the API that a path belongs to: each SDK reads errors of one shape only."""

from __future__ import annotations

from enum import Enum
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Scope

from dmr_adapters.http.anthropic.errors import body_of as anthropic_error
from dmr_adapters.http.anthropic.paths import match_anthropic
from dmr_adapters.http.asgi import header
from dmr_adapters.http.errors import is_stock_cli, openai_error, plain_text, retry_headers, status_of
from dmr_core.errors import BodyTooLargeError, DmrError

__all__ = ["Dialect", "dialect_of", "refuse"]


class Dialect(Enum):
    """Whose error bodies a client reads."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"
    RESPONSES = "responses"
    PLAIN = "plain"


_OPENAI_ROOTS: Final = ("/v1", "/rerank", "/score")


def dialect_of(path: str) -> Dialect:
    """The dialect of a cleaned path; management routes and unknown ones speak plain text."""
    if path.startswith("/api/"):
        return Dialect.OLLAMA
    if match_anthropic(path) is not None:
        return Dialect.ANTHROPIC
    # A model's name may hold any of these words, and its routes are none of theirs.
    if path.startswith(("/models", "/dmr/")):
        return Dialect.PLAIN
    if path.endswith("/responses") or "/responses/" in path:
        return Dialect.RESPONSES
    return Dialect.OPENAI if _is_openai(path) else Dialect.PLAIN


def _is_openai(path: str) -> bool:
    """Whatever is below ``/v1``, ``/engines/v1`` and ``/engines/{backend}/v1``, and their aliases."""
    if path.startswith("/engines/"):
        rest = path[len("/engines") :]
        return _below_root(rest) or _below_root("/" + rest[1:].partition("/")[2])
    return _below_root(path)


def _below_root(path: str) -> bool:
    return any(path == root or path.startswith(root + "/") for root in _OPENAI_ROOTS)


def refuse(scope: Scope, error: DmrError, headers: dict[str, str] | None = None) -> Response:
    """The answer for ``error`` to this request; the stock CLI prints what it gets, so it gets text."""
    status, dialect = status_of(error), dialect_of(scope["path"])
    extra = {**retry_headers(error), **(headers or {})}
    stock = dialect is Dialect.OPENAI and is_stock_cli(header(scope, b"user-agent"))
    if dialect is Dialect.PLAIN or stock:
        if isinstance(error, BodyTooLargeError):
            return plain_text("request too large", 400, extra)  # as the reference does outside the dialects
        return plain_text(error.message, status, extra)
    if dialect is Dialect.ANTHROPIC:
        content = anthropic_error(status, error.message, code=error.code)
    elif dialect is Dialect.OLLAMA:
        content = orjson.dumps({"error": error.message})
    else:
        content = openai_error(error, status)
    return Response(content, status, headers=extra, media_type="application/json")
