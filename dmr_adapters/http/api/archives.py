"""``/models/{name}/export`` and ``/repackage``, and what ``dmr package`` asks of a service beside them."""

from __future__ import annotations

import logging
import re
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.errors import plain_text, status_of
from dmr_adapters.http.leaving import unless_gone
from dmr_adapters.http.rest_json import decode, json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.repackage import Changes
from dmr_core.errors import DmrError, InvalidReferenceError, InvalidRequestError, ModelNotFoundError
from dmr_core.services.exporting import Export

__all__ = ["ArchivesApi"]

_log: Final = logging.getLogger(__name__)
_MAX_BODY: Final = 64 * 1024
_NONCE: Final = re.compile(r"[0-9a-f]{32}")


class RepackageBody(msgspec.Struct):
    """``POST /models/{name}/repackage``."""

    target: str = ""
    context_size: int | None = None


class ArchivesApi:
    """Handlers of what makes models out of models, and archives of them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def export(self, name: str, request: Request) -> Response:
        """``GET`` and ``HEAD /models/{name}/export``: the model as a tar stream of known length."""
        exporting = self._services.exporting
        try:
            if request.method == "HEAD":
                headers = _headers(name, await exporting.size(name))
                return Response(headers=headers, media_type="application/x-tar")
            return _ArchiveResponse(await exporting.export(name), name)
        except ModelNotFoundError:
            return _no_model(name)
        except DmrError as exc:
            return plain_text(exc.message, status_of(exc))

    async def repackage(self, name: str, request: Request) -> Response:
        """``POST /models/{name}/repackage``: the model with another context size, under another name."""
        try:
            body = decode(await read_body(request.receive, _MAX_BODY), RepackageBody)
        except InvalidRequestError as exc:
            reason = exc.message.removeprefix("invalid request body: ")
            return plain_text(f"invalid request body: {reason}", 400)
        if not body.target:
            return plain_text("target is required", 400)
        # The reference's clients send 0 for a size nobody gave.
        changes = Changes(context_size=body.context_size or None)
        try:
            model = await self._services.repackaging.repackage(name, body.target, changes)
        except ModelNotFoundError:
            return _no_model(name)
        except InvalidReferenceError as exc:
            return plain_text(exc.message, 400)
        except DmrError as exc:
            return plain_text(exc.message, status_of(exc))
        said = f'Model repackaged successfully as "{body.target}"'
        answer = {"message": said, "source": name, "target": body.target, "id": str(model.id)}
        return json_response(answer, 201)

    async def documents(self, request: Request) -> Response:
        """``GET /dmr/v1/documents?model=NAME``: manifest and config of a model, as text; their bytes make its ID."""
        manifest, config = await self._services.repackaging.documents(request.query_params.get("model", ""))
        return json_response({"manifest": manifest.decode(), "config": config.decode()})

    async def place(self, request: Request) -> Response:
        """``GET /dmr/v1/store?nonce=HEX``: where the store is, for who is on this machine, and whether ``nonce`` is there.

        A client that put a file of that name there knows then that the path means the same directory to both.
        """
        nonce = request.query_params.get("nonce", "")
        if not _is_local(request) or _NONCE.fullmatch(nonce) is None:
            return plain_text("the place of the store is told to this machine alone, for a nonce of 32 hex digits", 403)
        root = self._services.settings.models_path
        return json_response({"root": str(root), "present": (root / ".dmr" / "tmp" / f"nonce-{nonce}").is_file()})


def _is_local(request: Request) -> bool:
    client = request.client
    return client is None or client.host in ("", "::1") or client.host.startswith("127.")


class _ArchiveResponse(Response):
    """Sends an archive, and closes it however that ends: a client that leaves has nothing more read for it.

    What fails on the way leaves the body too short.
    """

    media_type = "application/x-tar"

    def __init__(self, export: Export, name: str) -> None:
        super().__init__(headers=_headers(name, export.size))
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(self._send(send), receive)
        except ClientGoneError:
            return
        except DmrError as exc:
            _log.warning("the export of %s was cut short: %s", self._export.model.name, exc.message)
        finally:
            await self._export.chunks.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._export.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _headers(name: str, size: int) -> dict[str, str]:
    quoted = "".join(character if character.isascii() and character.isprintable() else "_" for character in name)
    quoted = quoted.replace("\\", "\\\\").replace('"', '\\"')
    return {"content-length": str(size), "content-disposition": f'attachment; filename="{quoted}.tar"'}


def _no_model(name: str) -> Response:
    return plain_text(f"get model '\"{name}\"': model not found", 404)
