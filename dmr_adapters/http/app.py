"""Routes, and what stands in front of them.

From the outside in: path, unread bodies, host and origin, the key, the body's size, then inference by exact path, then
Starlette's router for everything else. No layer buffers, and none wraps a response in another task.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dmr_adapters.http.anthropic.paths import match_anthropic
from dmr_adapters.http.api.backends import BackendsApi
from dmr_adapters.http.api.engines import EnginesApi
from dmr_adapters.http.api.health import HealthApi
from dmr_adapters.http.api.models import ModelsApi
from dmr_adapters.http.asgi import ClientGoneError, DrainGuard
from dmr_adapters.http.background import BackgroundTasks
from dmr_adapters.http.edge.body_limit import BodyLimit
from dmr_adapters.http.edge.hosts import HostPolicy
from dmr_adapters.http.edge.key_guard import KeyGuard
from dmr_adapters.http.edge.origins import OriginGuard, OriginPolicy
from dmr_adapters.http.edge.paths import PathCleaner
from dmr_adapters.http.inference.app import InferenceApp
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.seldom import SeldomApi
from dmr_adapters.http.services import Services
from dmr_adapters.http.unrouted import condition, method_not_allowed, not_found
from dmr_core.domain.api_key import ApiKeyHash
from dmr_core.errors import DmrError

__all__ = ["HttpApp"]


class HttpApp:
    """The whole service as one ASGI application. Close it with :meth:`aclose`; the services are not its own."""

    def __init__(self, services: Services, *, api_key: ApiKeyHash | None = None) -> None:
        self._services = services
        self._background = BackgroundTasks()
        self._inference = InferenceApp(services)
        self._seldom = SeldomApi(services, self._inference)
        self._router = self._routes()
        settings = services.settings
        hosts = HostPolicy(extra=settings.allowed_hosts, loopback=settings.loopback, keyed=api_key is not None)
        # Outside the key: a preflight brings none, and a page must be able to read that its own was wrong.
        limited = BodyLimit(self._dispatch, max_body=settings.max_body)
        keyed: ASGIApp = limited if api_key is None else KeyGuard(limited, api_key)
        guarded = OriginGuard(keyed, origins=OriginPolicy(settings.allowed_origins), hosts=hosts)
        self._app: ASGIApp = PathCleaner(DrainGuard(guarded))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's life."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def aclose(self) -> None:
        """Cancel work that requests left behind."""
        await self._background.aclose()
        await self._seldom.aclose()

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            route = self._inference.route(scope["path"])
            if route is not None:
                await self._inference.answer(route, scope, receive, send)
                return
        if scope["path"].startswith("/api/") or scope["path"] == "/api":
            await self._seldom.ollama(scope, receive, send)
            return
        asked = match_anthropic(scope["path"])
        if asked is not None:
            await self._seldom.anthropic.answer(asked, scope, receive, send)
            return
        await self._router(scope, receive, send)

    def _routes(self) -> Starlette:
        models, engines = ModelsApi(self._services), EnginesApi(self._services, self._background)
        backends = BackendsApi(self._services)
        health = HealthApi(self._services)
        seldom = self._seldom
        routes = [
            Route("/", self._root, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
            Route("/version", self._version, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
            Route("/models", models.list),
            Route("/models/{name:path}", models.get),
            Route("/models/{name:path}", models.post, methods=["POST"]),
            Route("/models/purge", seldom.purge, methods=["DELETE"]),
            Route("/models/{name:path}", models.delete, methods=["DELETE"]),
            Route("/engines/status", backends.status),
            Route("/engines/install-backend", backends.install, methods=["POST"]),
            Route("/engines/uninstall-backend", backends.uninstall, methods=["POST"]),
            Route("/dmr/v1/backends", backends.list),
            Route("/engines/ps", engines.ps),
            Route("/engines/requests", seldom.requests),
            Route("/engines/df", engines.df),
            Route("/engines/unload", engines.unload, methods=["POST"]),
            Route("/engines/_configure", engines.configured),
            Route("/engines/_configure", engines.configure, methods=["POST", "PATCH"]),
            Route("/engines/{backend}/_configure", engines.configure, methods=["POST", "PATCH"]),
            Route("/engines/_configure", engines.reset, methods=["DELETE"]),
            Route("/engines/{backend}/_configure", engines.reset, methods=["DELETE"]),
            Route("/dmr/v1/plugins", engines.plugins),
            Route("/dmr/v1/documents", seldom.documents),
            Route("/dmr/v1/store", seldom.place),
            Route("/dmr/v1/store/prune", seldom.prune, methods=["POST"]),
            Route("/dmr/v1/store/check", seldom.check, methods=["POST"]),
            Route("/dmr/v1/store/usage", seldom.usage),
            Route("/dmr/v1/search", seldom.search),
            Route("/dmr/v1/why", seldom.why),
            Route("/dmr/v1/explain", seldom.explain),
            Route("/logs", seldom.logs),
            Route("/openapi.json", seldom.openapi),
            Route("/healthz", health.alive),
            Route("/readyz", health.ready),
        ]
        for prefix in ("", "/engines", "/engines/{backend}"):
            routes.append(Route(f"{prefix}/v1/models", engines.models))
            routes.append(Route(f"{prefix}/v1/models/{{name:path}}", engines.model))
        for prefix in ("", "/v1", "/engines", "/engines/v1", "/engines/{backend}/v1"):
            routes.append(Route(f"{prefix}/responses", seldom.create_response, methods=["POST"]))
            routes.append(Route(f"{prefix}/responses/{{id}}", seldom.response, methods=["GET", "DELETE"]))
            routes.append(Route(f"{prefix}/responses/{{id}}/input_items", seldom.response_input))
            routes.append(Route(f"{prefix}/responses/{{id}}/cancel", seldom.cancel_response, methods=["POST"]))
        if self._services.settings.metrics:
            routes.append(Route("/metrics", seldom.metrics))
        handlers = {
            404: not_found,
            405: method_not_allowed,
            DmrError: condition,
            ClientGoneError: _gone,
            Exception: condition,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]  # handlers by class
        app.router.redirect_slashes = False
        return app

    async def _root(self, request: Request) -> Response:
        # Clients of either look here for what they know.
        ollama = request.headers.get("user-agent", "").startswith("ollama")
        said = "Ollama is running" if ollama else "Docker Model Runner is running"
        return Response(said, media_type="text/plain; charset=utf-8", headers={"vary": "User-Agent"})

    async def _version(self, _request: Request) -> Response:
        return json_response({"version": self._services.version})


async def _gone(_request: Request, _exc: Exception) -> Response:
    return Response(status_code=499)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to do: whoever built the services starts and stops them."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
