"""Ollama's API as an ASGI application of its own: what it answers has that dialect's form, errors too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.fidelity import HonouredFields
from dmr_adapters.http.ollama.answering import AnsweringApi
from dmr_adapters.http.ollama.blobs import BlobsApi
from dmr_adapters.http.ollama.creating import CreatingApi
from dmr_adapters.http.ollama.embedding import EmbeddingApi
from dmr_adapters.http.ollama.errors import refusal, shaped
from dmr_adapters.http.ollama.listing import ListingApi
from dmr_adapters.http.ollama.managing import ManagingApi
from dmr_adapters.http.ollama.model_settings import SettingsReader
from dmr_adapters.http.ollama.showing import ShowingApi
from dmr_adapters.http.ollama.transfer import TransferApi
from dmr_adapters.http.services import Services

__all__ = ["BANNER", "OllamaApp"]

BANNER: Final = "Ollama is running"
VERSION: Final = "0.13.0"
"""The version of Ollama's API that this is like; clients look at it to know what they may ask for."""
_BLOBS: Final = "/api/blobs/"

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Reading = Callable[[Request, bytes], Awaitable[Response]]


class OllamaApp:
    """Everything below ``/api``. Close it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        honoured = HonouredFields(services)
        settings = SettingsReader(services.catalog, services.store)
        self._blobs = BlobsApi(services)
        answering, embedding = AnsweringApi(services, honoured, settings), EmbeddingApi(services, honoured)
        listing, managing, transfer = ListingApi(services), ManagingApi(services), TransferApi(services)
        showing, creating = ShowingApi(services, settings), CreatingApi(services, settings, self._blobs)
        self._routes: dict[str, dict[str, Handler]] = {
            "/api": {"GET": self._answering(self._banner)},
            "/api/": {"GET": self._answering(self._banner)},
            "/api/version": {"GET": self._answering(self._version)},
            "/api/tags": {"GET": self._answering(listing.tags)},
            "/api/ps": {"GET": self._answering(listing.ps)},
            "/api/show": {"POST": self._answering(showing.show)},
            "/api/copy": {"POST": self._answering(managing.copy)},
            "/api/delete": {"DELETE": self._answering(managing.delete)},
            "/api/pull": {"POST": self._answering(transfer.pull)},
            "/api/push": {"POST": self._answering(transfer.push)},
            "/api/create": {"POST": self._answering(creating.create)},
            "/api/embed": {"POST": embedding.embed},
            "/api/embeddings": {"POST": embedding.embeddings},
            "/api/chat": {"POST": answering.chat},
            "/api/generate": {"POST": answering.generate},
        }

    def operations(self) -> list[tuple[str, str]]:
        """Methods and paths, but for ``HEAD``, as ``/openapi.json`` has them."""
        found = [(method, path) for path, methods in self._routes.items() for method in methods if path != "/api/"]
        return [*found, ("POST", _BLOBS + "{digest}")]

    async def aclose(self) -> None:
        """Let go of what clients sent and made nothing of."""
        await self._blobs.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        path, method = scope["path"], scope["method"]
        methods = self._routes.get(path)
        if methods is None and path.startswith(_BLOBS):
            methods = {"HEAD": self._unread(self._blobs.head), "POST": self._unread(self._blobs.receive)}
        if methods is None:
            await shaped(404, "404 page not found")(scope, receive, send)
            return
        handler = methods.get("GET" if method == "HEAD" and "HEAD" not in methods else method)
        if handler is None:
            allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
            await shaped(405, "Method Not Allowed", {"allow": ", ".join(allowed)})(scope, receive, send)
            return
        await handler(scope, receive, send)

    def _answering(self, handle: Reading) -> Handler:
        """A handler of whole bodies."""

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            try:
                content = await read_body(receive, self._services.settings.max_body)
                response = await handle(request, content)
            except ClientGoneError:
                return
            except Exception as exc:
                response = refusal(exc)
            await response(scope, receive, send)

        return handler

    def _unread(self, handle: Callable[[Request], Awaitable[Response]]) -> Handler:
        """A handler that reads the body itself, if at all."""

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                response = await handle(Request(scope, receive))
            except ClientGoneError:
                return
            except Exception as exc:
                response = refusal(exc)
            await response(scope, receive, send)

        return handler

    async def _banner(self, _request: Request, _content: bytes) -> Response:
        return Response(BANNER, media_type="text/plain; charset=utf-8")

    async def _version(self, _request: Request, _content: bytes) -> Response:
        return Response(b'{"version":"%s"}\n' % VERSION.encode(), media_type="application/json")
