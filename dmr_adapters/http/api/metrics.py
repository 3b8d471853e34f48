"""``GET /metrics``: the figures of the service and of its engines."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.services import Services
from dmr_adapters.metrics.page import CONTENT_TYPE

__all__ = ["MetricsApi"]


class MetricsApi:
    """Handler of ``/metrics``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def page(self, _request: Request) -> Response:
        """Everything there is to be counted, in Prometheus' text format."""
        return Response(await self._services.management().metrics_page.render(), headers={"content-type": CONTENT_TYPE})
