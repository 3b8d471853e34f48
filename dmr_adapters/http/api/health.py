"""``GET /healthz`` and ``GET /readyz``, for whoever decides to restart the service or to send requests to it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services

__all__ = ["HealthApi"]


class HealthApi:
    """Handlers of the two probes."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def alive(self, _request: Request) -> Response:
        """``GET /healthz``: that there is an answer says that the process lives and its loop turns."""
        return Response("ok\n", media_type="text/plain", headers={"cache-control": "no-store"})

    async def ready(self, _request: Request) -> Response:
        """``GET /readyz``: 200, or 503 and what is wrong, by the name of the check."""
        health = self._services.health
        problems = await health.problems()
        document = {
            "status": "not ready" if problems else "ready",
            "checks": {name: problems.get(name, "ok") for name in dict.fromkeys((*health.names, *problems))},
        }
        if "service" in problems:
            document["checks"] = problems
        response = json_response(document, 503 if problems else 200)
        response.headers["cache-control"] = "no-store"
        return response
