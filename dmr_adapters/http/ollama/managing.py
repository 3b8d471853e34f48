"""``POST /api/copy`` and ``DELETE /api/delete``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.ollama.errors import refusal
from dmr_adapters.http.ollama.request import CopyBody, NameBody, named, read
from dmr_adapters.http.services import Services
from dmr_core.errors import InvalidRequestError, ModelNotFoundError

__all__ = ["ManagingApi"]


class ManagingApi:
    """Names of models: one more, or one less."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def copy(self, _request: Request, content: bytes) -> Response:
        """``POST /api/copy``: the model gets a name more; nothing is copied, as models do not change."""
        body, _ = read(content, CopyBody)
        if not body.source or not body.destination:
            missing = "destination" if body.source else "source"
            raise InvalidRequestError(f"{missing} is required", param=missing)
        try:
            await self._services.catalog.tag(body.source, body.destination)
        except ModelNotFoundError as exc:
            return refusal(exc, body.source)
        return Response(status_code=200)

    async def delete(self, _request: Request, content: bytes) -> Response:
        """``DELETE /api/delete``: the name goes, and with its last name the model, which is unloaded first."""
        body, _ = read(content, NameBody)
        name = named(body)
        catalog, inference = self._services.catalog, self._services.inference
        try:
            model = await catalog.find_fresh(name)
            removal = await catalog.remove(name)
        except ModelNotFoundError as exc:
            return refusal(exc, name)
        if removal.deleted is not None:
            await inference.release_model(model.id)
            await inference.forget(model.id)
        return Response(b"{}", media_type="application/json")
