"""``POST /api/pull`` and ``POST /api/push``: progress in Ollama's words."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.credentials import pull_credentials
from dmr_adapters.http.fidelity import Fidelity
from dmr_adapters.http.leaving import ClosingResponse, first_of, unless_gone
from dmr_adapters.http.ollama.errors import error_line, message_for, refusal
from dmr_adapters.http.ollama.request import TransferBody, named, read
from dmr_adapters.http.services import Services
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.errors import DmrError

__all__ = ["TransferApi", "progress_document", "streamed"]

_log: Final = logging.getLogger("dmr.http")
_SUCCESS: Final = b'{"status":"success"}\n'
_VERBS: Final = {TransferMode.PULL: "pulling", TransferMode.PUSH: "pushing", TransferMode.INSTALL: "installing"}
_BEGIN: Final = {TransferMode.PULL: "pulling manifest", TransferMode.PUSH: "retrieving manifest"}


def progress_document(line: Progress) -> dict[str, Any]:
    """A line of progress in Ollama's words."""
    if line.kind is ProgressKind.SUCCESS:
        return {"status": "success"}
    if line.kind is ProgressKind.ERROR:
        return {"error": line.message}
    if line.layer is None:
        return {"status": line.message}
    layer = line.layer
    document: dict[str, Any] = {"status": f"{_VERBS[line.mode]} {layer.id.short}", "digest": str(layer.id)}
    if layer.size:
        document["total"] = layer.size
    if layer.current:
        document["completed"] = layer.current
    return document


class TransferApi:
    """Models on their way in and out."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def pull(self, request: Request, content: bytes) -> Response:
        """``POST /api/pull``."""
        body, unknown = read(content, TransferBody)
        name = named(body)
        lines = await self._services.pulling.pull(name, pull_credentials(request.scope["headers"], None))
        return await self._answer(request, body, unknown, name, lines, TransferMode.PULL)

    async def push(self, request: Request, content: bytes) -> Response:
        """``POST /api/push``."""
        body, unknown = read(content, TransferBody)
        name = named(body)
        lines = self._services.pushing.push(name)
        return await self._answer(request, body, unknown, name, lines, TransferMode.PUSH)

    async def _answer(
        self,
        request: Request,
        body: TransferBody,
        unknown: list[str],
        name: str,
        lines: AsyncGenerator[Progress, None],
        mode: TransferMode,
    ) -> Response:
        # Whether a registry is spoken to without TLS is the operator's to say.
        fidelity = Fidelity(ignored=[*unknown, *(["insecure"] if body.insecure else [])])
        headers = {name.decode(): value.decode() for name, value in fidelity.headers()}
        try:
            first = await unless_gone(first_of(lines), request.receive)
            if body.stream is False:
                await unless_gone(_rest(lines), request.receive)
                return Response(_SUCCESS, headers=headers, media_type="application/json")
        except DmrError as exc:
            return refusal(exc, name)
        return streamed(_documents(first, lines, mode), headers)


async def _documents(
    first: Progress, lines: AsyncGenerator[Progress, None], mode: TransferMode
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(lines) as following:
        yield {"status": _BEGIN[mode]}
        yield progress_document(first)
        async for line in following:
            yield progress_document(line)


def streamed(documents: AsyncGenerator[dict[str, Any], None], headers: dict[str, str]) -> Response:
    """A stream of documents; what fails on the way is told by the last."""
    content = _encoded(documents)
    return ClosingResponse(content, headers={**headers, "cache-control": "no-cache"}, media_type="application/x-ndjson")


async def _encoded(documents: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(documents) as following:
        try:
            async for document in following:
                yield orjson.dumps(document) + b"\n"
        except DmrError as exc:
            yield error_line(message_for(exc))
        except Exception as exc:  # a bug: the stream has begun, so it can only be told in it
            _log.exception("unexpected error in a progress stream")
            yield error_line(message_for(exc))


async def _rest(lines: AsyncGenerator[Progress, None]) -> None:
    async with aclosing(lines) as following:
        async for _ in following:
            pass
