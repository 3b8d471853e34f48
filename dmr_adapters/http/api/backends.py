"""What engines there are, and how they come and go."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.asgi import read_body
from dmr_adapters.http.errors import is_stock_cli, message_of, plain_text, status_of
from dmr_adapters.http.leaving import ClosingResponse
from dmr_adapters.http.rest_json import (
    InstallBody,
    accelerator_json,
    backend_json,
    decode,
    json_response,
    progress_line,
)
from dmr_adapters.http.services import Services
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.errors import (
    BackendInstallError,
    BackendNotFoundError,
    BodyTooLargeError,
    DmrError,
    InvalidRequestError,
)

__all__ = ["BackendsApi"]

_log: Final = logging.getLogger("dmr.http")
_STREAMS: Final = ("application/x-ndjson", "application/json")
_INSTALL: Final = "backend installation failed: "
_UNINSTALL: Final = "backend uninstall failed: "


class BackendsApi:
    """Handlers of ``/engines/status``, ``/engines/{install,uninstall}-backend`` and ``/dmr/v1/backends``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def status(self, _request: Request) -> Response:
        """``GET /engines/status``; no newline at the end, by the wire's habit."""
        statuses = await self._services.backends.statuses()
        return json_response({name: str(status) for name, status in statuses.items()}, newline=False)

    async def list(self, _request: Request) -> Response:
        """``GET /dmr/v1/backends``: the same with everything known about each."""
        services = self._services
        return json_response(
            {
                "backends": [backend_json(view) for view in await services.backends.views()],
                "accelerator": accelerator_json(services.accelerator, services.detections),
                "warnings": [
                    {"model": view.alias, "backend": view.key.backend, "text": view.warning}
                    for view in services.scheduler.runners()
                    if view.warning
                ],
            }
        )

    async def install(self, request: Request) -> Response:
        """``POST /engines/install-backend``: answers when it is done; whoever accepts JSON gets lines of progress."""
        body = await self._body(request)
        if isinstance(body, Response):
            return body
        name, version = body.backend or "", body.version or None
        accepted = request.headers.get("accept", "").partition(";")[0].strip()
        try:
            if accepted in _STREAMS:
                lines = self._services.backends.install_lines(name, version)
                return ClosingResponse(_render(lines), headers={"cache-control": "no-cache"}, media_type=accepted)
            await self._services.backends.install(name, version)
        except DmrError as exc:
            return _refusal(exc, _INSTALL, request)
        return Response()

    async def uninstall(self, request: Request) -> Response:
        """``POST /engines/uninstall-backend``."""
        body = await self._body(request)
        if isinstance(body, Response):
            return body
        try:
            await self._services.backends.uninstall(body.backend or "")
        except DmrError as exc:
            return _refusal(exc, _UNINSTALL, request)
        return Response()

    async def _body(self, request: Request) -> InstallBody | Response:
        try:
            body = decode(await read_body(request.receive, self._services.settings.max_body), InstallBody)
        except BodyTooLargeError:
            return plain_text("request too large", 400)
        except InvalidRequestError:
            body = InstallBody()
        return body if body.backend else plain_text("invalid request: backend is required", 400)


def _refusal(error: DmrError, prefix: str, request: Request) -> Response:
    """The reference's texts and statuses. To the stock CLI any 503 says that the service does not run."""
    if isinstance(error, BackendNotFoundError):
        return plain_text("backend not found", 404)
    status = status_of(error)
    if isinstance(error, BackendInstallError) or (
        status == 503 and is_stock_cli(request.headers.get("user-agent", ""))
    ):
        status = 500
    return plain_text(prefix + error.message, status)


async def _render(lines: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines) as following:
        try:
            async for line in following:
                yield progress_line(line, escaped=False)
        except DmrError as exc:
            yield _error(_INSTALL + exc.message, exc.code)
        except Exception as exc:  # a bug: the stream has begun, so it can only be told in it
            _log.exception("unexpected error in a progress stream")
            yield _error(_INSTALL + message_of(exc), "internal_error")


def _error(message: str, code: str) -> bytes:
    line = Progress(kind=ProgressKind.ERROR, message=f"Error: {message}", mode=TransferMode.INSTALL, code=code)
    return progress_line(line, escaped=False)
