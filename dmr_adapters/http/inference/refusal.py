"""Requests that are not answered by an engine: which words, and which status."""

from __future__ import annotations

import contextlib
from typing import Final

from starlette.responses import Response

from dmr_adapters.http.errors import error_response, message_of, not_found_text, status_of
from dmr_core.errors import (
    BackendNotFoundError,
    BodyTooLargeError,
    DmrError,
    EngineExitedError,
    ModelNotFoundError,
    ShuttingDownError,
    UpstreamError,
)
from dmr_core.services.scheduling.lease import Lease

__all__ = ["explain", "refusal"]

_DEATH_WAIT: Final = 0.5


def refusal(error: Exception, *, name: str, loading: bool, stock: bool) -> Response:
    """The answer for ``error``. ``name`` is the model asked for; ``loading`` says that it happened on the way to a runner."""
    response = error_response(error, openai=not stock, message=_wire_text(error, name, loading=loading))
    if stock and response.status_code == 503 and not isinstance(error, ShuttingDownError):
        response.status_code = 429  # to that CLI any 503 says that the service is not running
    return response


async def explain(lease: Lease, error: UpstreamError) -> DmrError:
    """The engine's own end, when that is why the connection broke."""
    with contextlib.suppress(Exception):
        ended = await lease.failure(_DEATH_WAIT)
        if ended is not None:
            cause = f"the engine stopped while answering: {ended.summary}"
            return type(ended)(ended.backend, ended.returncode, cause=cause, remedy=ended.remedy)
    return error


def _wire_text(error: Exception, name: str, *, loading: bool) -> str | None:
    """The texts clients of the reference know; ``None`` for the error's own."""
    if isinstance(error, ModelNotFoundError):
        return not_found_text(name)
    if isinstance(error, BackendNotFoundError):
        return "backend not found"
    if isinstance(error, BodyTooLargeError):
        return "request too large"
    if loading and (isinstance(error, EngineExitedError) or status_of(error) in (502, 504, 507)):
        return f"unable to load runner: {message_of(error)}"
    return None
