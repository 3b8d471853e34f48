"""Handlers that few requests need, each imported by the first that does: a service that starts does not wait for them."""

# ruff: noqa: PLC0415 - that is what this module is for

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.inference.app import InferenceApp
from dmr_adapters.http.services import Services

if TYPE_CHECKING:
    from dmr_adapters.http.anthropic.app import AnthropicApp
    from dmr_adapters.http.ollama.app import OllamaApp
    from dmr_adapters.http.responses.api import ResponsesApi

__all__ = ["SeldomApi"]


class SeldomApi:
    """Stands for the classes in ``api`` that it names, and for the dialects that are translated. Close it."""

    def __init__(self, services: Services, inference: InferenceApp) -> None:
        self._services = services
        self._inference = inference
        self._responses: ResponsesApi | None = None
        self._ollama: OllamaApp | None = None
        self._anthropic: AnthropicApp | None = None

    async def aclose(self) -> None:
        """Close what was made."""
        if self._responses is not None:
            await self._responses.aclose()
        if self._ollama is not None:
            await self._ollama.aclose()

    @property
    def responses(self) -> ResponsesApi:
        """The Responses API, of which there is one: it knows what is done in the background."""
        if self._responses is None:
            from dmr_adapters.http.responses.api import ResponsesApi

            self._responses = ResponsesApi(self._services, self._inference)
        return self._responses

    @property
    def ollama(self) -> OllamaApp:
        """Ollama's API, of which there is one: it keeps what clients send before they make a model of it."""
        if self._ollama is None:
            from dmr_adapters.http.ollama.app import OllamaApp

            self._ollama = OllamaApp(self._services)
        return self._ollama

    @property
    def anthropic(self) -> AnthropicApp:
        """Anthropic's Messages API."""
        if self._anthropic is None:
            from dmr_adapters.http.anthropic.app import AnthropicApp

            self._anthropic = AnthropicApp(self._services)
        return self._anthropic

    async def documents(self, request: Request) -> Response:
        """``GET /dmr/v1/documents``."""
        from dmr_adapters.http.api.archives import ArchivesApi

        return await ArchivesApi(self._services).documents(request)

    async def place(self, request: Request) -> Response:
        """``GET /dmr/v1/store``."""
        from dmr_adapters.http.api.archives import ArchivesApi

        return await ArchivesApi(self._services).place(request)

    async def create_response(self, request: Request) -> Response:
        """``POST /v1/responses``."""
        return await self.responses.create(request)

    async def response(self, request: Request) -> Response:
        """``GET`` or ``DELETE /v1/responses/{id}``."""
        return await (self.responses.delete(request) if request.method == "DELETE" else self.responses.get(request))

    async def response_input(self, request: Request) -> Response:
        """``GET /v1/responses/{id}/input_items``."""
        return await self.responses.input_items(request)

    async def cancel_response(self, request: Request) -> Response:
        """``POST /v1/responses/{id}/cancel``."""
        return await self.responses.cancel(request)

    async def purge(self, request: Request) -> Response:
        """``DELETE /models/purge``."""
        from dmr_adapters.http.api.store import StoreApi

        return await StoreApi(self._services).purge(request)

    async def prune(self, request: Request) -> Response:
        """``POST /dmr/v1/store/prune``."""
        from dmr_adapters.http.api.store import StoreApi

        return await StoreApi(self._services).prune(request)

    async def check(self, request: Request) -> Response:
        """``POST /dmr/v1/store/check``."""
        from dmr_adapters.http.api.store import StoreApi

        return await StoreApi(self._services).check(request)

    async def usage(self, request: Request) -> Response:
        """``GET /dmr/v1/store/usage``."""
        from dmr_adapters.http.api.store import StoreApi

        return await StoreApi(self._services).usage(request)

    async def search(self, request: Request) -> Response:
        """``GET /dmr/v1/search``."""
        from dmr_adapters.http.api.search import SearchApi

        return await SearchApi(self._services).search(request)

    async def why(self, request: Request) -> Response:
        """``GET /dmr/v1/why``."""
        from dmr_adapters.http.api.why import WhyApi

        return await WhyApi(self._services).why(request)

    async def explain(self, request: Request) -> Response:
        """``GET /dmr/v1/explain``."""
        from dmr_adapters.http.api.explain import ExplainApi

        return await ExplainApi(self._services).explain(request)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``."""
        from dmr_adapters.http.api.metrics import MetricsApi

        return await MetricsApi(self._services).page(request)

    async def logs(self, request: Request) -> Response:
        """``GET /logs``."""
        from dmr_adapters.http.api.logs import LogsApi

        return await LogsApi(self._services).logs(request)

    async def requests(self, request: Request) -> Response:
        """``GET /engines/requests``."""
        from dmr_adapters.http.api.requests import RequestsApi

        return await RequestsApi(self._services).get(request)

    async def openapi(self, request: Request) -> Response:
        """``GET /openapi.json``."""
        from dmr_adapters.http.api.openapi import OpenApi

        return await OpenApi(self._services).get(request)
