"""``/models``: what is stored, and how it comes and goes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dmr_adapters.http.api.archives import ArchivesApi
from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.credentials import pull_credentials
from dmr_adapters.http.errors import is_stock_cli, message_of, plain_text, status_of
from dmr_adapters.http.leaving import ClosingResponse, first_of, unless_gone
from dmr_adapters.http.listing import ModelListing
from dmr_adapters.http.rest_json import CreateBody, PushBody, decode, json_response, model_json, progress_line
from dmr_adapters.http.services import Services
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.errors import (
    DmrError,
    InvalidReferenceError,
    InvalidRequestError,
    ModelNotFoundError,
    RemoteModelNotFoundError,
    UnauthorizedError,
)
from dmr_core.ports.registry import Credentials

__all__ = ["ModelsApi"]

_log: Final = logging.getLogger("dmr.http")
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True", ""})
_MAX_CONTROL_BODY: Final = 1024 * 1024


class ModelsApi:
    """Handlers of ``/models``. Names hold slashes, so one handler per method takes the whole path apart."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._archives = ArchivesApi(services)
        self._listing = ModelListing(services.catalog, model_json)

    async def list(self, request: Request) -> Response:
        """``GET /models``."""
        return await self._listing.answer(request)

    async def get(self, request: Request) -> Response:
        """``GET /models/{name}``, with ``?remote=true`` the registry's view of it; ``/models/{name}/export``."""
        name = request.path_params["name"]
        if name.endswith("/export"):
            return await self._archives.export(name.removesuffix("/export"), request)
        if _flag(request, "remote"):
            from dmr_adapters.http.api.remote import describe_remote  # noqa: PLC0415 - few ask

            return await describe_remote(
                self._services, name, stock=is_stock_cli(request.headers.get("user-agent", ""))
            )
        try:
            return json_response(model_json(await self._services.catalog.find_fresh(name)))
        except (ModelNotFoundError, InvalidReferenceError) as exc:
            return plain_text("model not found" if isinstance(exc, ModelNotFoundError) else exc.message, status_of(exc))

    async def post(self, request: Request) -> Response:
        """``POST /models/create``, ``/models/load`` and ``/models/{name}/{tag,push,repackage}``."""
        path = request.path_params["name"]
        if path == "create":
            return await self._create(request)
        if path == "load":
            return await self._load(request)
        name, _, action = path.rpartition("/")
        if action == "tag" and name:
            return await self._tag(name, request)
        if action == "push" and name:
            return await self._push(name, request)
        if action == "repackage" and name:
            return await self._archives.repackage(name, request)
        return plain_text(f'unknown action "{action}"', 404)

    async def delete(self, request: Request) -> Response:
        """``DELETE /models/{name}``."""
        name = request.path_params["name"]
        catalog, inference = self._services.catalog, self._services.inference
        try:
            model = await catalog.find_fresh(name)
            removal = await catalog.remove(name, force=_flag(request, "force"))
            if removal.deleted is not None:
                await inference.release_model(model.id)
                await inference.forget(model.id)
        except ModelNotFoundError:
            return plain_text("error while deleting model: model not found", 404)
        except DmrError as exc:
            return plain_text(f"error while deleting model: {exc.message}", status_of(exc))
        lines = [{"Untagged": tag} for tag in removal.untagged]
        if removal.deleted is not None:
            lines.append({"Deleted": str(removal.deleted)})
        return json_response(lines)

    # --- actions

    async def _create(self, request: Request) -> Response:
        try:
            body = decode(await read_body(request.receive, _MAX_CONTROL_BODY), CreateBody)
        except InvalidRequestError:
            return plain_text("invalid request body", 400)
        try:
            credentials = pull_credentials(request.scope["headers"], body.bearer_token)
            lines = await self._services.pulling.pull(body.source or "", credentials)
        except InvalidRequestError as exc:
            if not isinstance(exc, InvalidReferenceError):
                return plain_text(exc.message, 400)
            return plain_text(
                f"Invalid model reference: {exc.message}" if body.source else "Invalid model reference", 400
            )
        return await _stream(lines, request, TransferMode.PULL, "error while pulling model: ")

    async def _push(self, name: str, request: Request) -> Response:
        content = await read_body(request.receive, _MAX_CONTROL_BODY)
        try:
            body = decode(content, PushBody) if content.strip() else PushBody()
        except InvalidRequestError:
            return plain_text("invalid request body", 400)
        lines = self._services.pushing.push(name, _credentials(body.bearer_token))
        return await _stream(lines, request, TransferMode.PUSH, "error while pushing model: ")

    async def _tag(self, name: str, request: Request) -> Response:
        repo, tag = request.query_params.get("repo", ""), request.query_params.get("tag", "")
        if not repo or not tag:
            return plain_text("missing repo or tag query parameter", 400)
        target = f"{repo}:{tag}"
        try:
            await self._services.catalog.tag(name, target)
        except ModelNotFoundError:
            return plain_text("model not found", 404)
        except DmrError as exc:
            return plain_text(f"error while tagging model: {exc.message}", status_of(exc))
        return json_response({"message": f'Model tagged successfully with "{target}"', "target": target}, 201)

    async def _load(self, request: Request) -> Response:
        try:
            model = await self._services.loading.load(_body_chunks(request))
        except DmrError as exc:
            return plain_text(f"error while loading model: {exc.message}", status_of(exc))
        line = Progress(kind=ProgressKind.SUCCESS, message="Model loaded successfully", mode=TransferMode.PULL)
        return Response(
            progress_line(line, escaped=False),
            media_type="text/plain; charset=utf-8",
            headers={"x-model-id": str(model.id)},
        )


async def _body_chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect as exc:
        raise InvalidRequestError("the client left in the middle of the archive") from exc


async def _stream(lines: AsyncGenerator[Progress, None], request: Request, mode: TransferMode, prefix: str) -> Response:
    """A progress stream. What fails before the first line gets a status of its own; later, an error line ends the stream."""
    try:
        first = await unless_gone(first_of(lines), request.receive)
    except ClientGoneError:
        return Response(status_code=499)
    except DmrError as exc:
        return _refusal(exc, prefix, stock=is_stock_cli(request.headers.get("user-agent", "")))
    as_json = request.headers.get("accept") == "application/json"
    content = _render(first, lines, mode, prefix, escaped=not as_json)
    headers = {"cache-control": "no-cache"}
    return ClosingResponse(content, headers=headers, media_type="application/json" if as_json else "text/plain")


async def _render(
    first: Progress, lines: AsyncGenerator[Progress, None], mode: TransferMode, prefix: str, *, escaped: bool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines) as following:
        yield progress_line(first, escaped=escaped)
        try:
            async for line in following:
                yield progress_line(line, escaped=escaped)
        except DmrError as exc:
            message = f"Error: {prefix}{exc.message}"
            yield progress_line(
                Progress(kind=ProgressKind.ERROR, message=message, mode=mode, code=exc.code), escaped=escaped
            )
        except Exception as exc:  # a bug: the stream has begun, so it can only be told in it
            _log.exception("unexpected error in a progress stream")
            message = f"Error: {prefix}{message_of(exc)}"
            yield progress_line(
                Progress(kind=ProgressKind.ERROR, message=message, mode=mode, code="internal_error"), escaped=escaped
            )


def _refusal(error: DmrError, prefix: str, *, stock: bool) -> Response:
    """What fails before the first line; texts the stock CLI knows begin these bodies.

    To that CLI any 503 says that the service is not running, and 502 and 504 are worth four more tries; here they
    are a registry's, and were tried again already.
    """
    status = status_of(error)
    if stock and status in (502, 503, 504):
        status = 500
    if isinstance(error, RemoteModelNotFoundError | ModelNotFoundError):
        return plain_text(f"Model not found: {error.message}", status)
    if isinstance(error, UnauthorizedError):
        return plain_text(f"Unauthorized: {error.message}", status)
    if isinstance(error, InvalidReferenceError):
        return plain_text(f"Invalid model reference: {error.message}", status)
    return plain_text(prefix + error.message, status)


def _credentials(token: str | None) -> Credentials | None:
    return Credentials(token) if token else None


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name)
    return value is not None and value in _TRUE
