"""``GET /openapi.json``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.openapi.document import document, operations
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services

__all__ = ["OpenApi"]


class OpenApi:
    """Handler of ``/openapi.json``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, _request: Request) -> Response:
        """The document of this very service: what is switched off is not in it."""
        settings = self._services.settings
        table = operations(metrics=settings.metrics)
        return json_response(document(self._services.version, table, keyed=settings.api_key_file is not None))
