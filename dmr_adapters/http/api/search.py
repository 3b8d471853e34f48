"""``GET /dmr/v1/search``: models that could be pulled."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.errors import error_response
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.search import SearchHit
from dmr_core.errors import DmrError, InvalidRequestError

__all__ = ["SearchApi"]


class SearchApi:
    """Handler of ``/dmr/v1/search``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def search(self, request: Request) -> Response:
        """``GET /dmr/v1/search[?term=][&limit=][&source=]``."""
        query = request.query_params
        try:
            outcome = await self._services.management().searching.search(
                query.get("term", ""), limit=_number(query.get("limit", "32")), source=query.get("source", "all")
            )
        except DmrError as exc:
            return error_response(exc, openai=False)
        return json_response({"hits": [_hit_json(hit) for hit in outcome.hits], "warnings": list(outcome.warnings)})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequestError(f"limit is a number, not {text[:20]!r}", param="limit")
    return int(text)


def _hit_json(hit: SearchHit) -> dict[str, Any]:
    return {
        "name": hit.name,
        "reference": hit.reference,
        "description": hit.description,
        "downloads": hit.downloads,
        "stars": hit.stars,
        "source": hit.source,
        "official": hit.official,
        "updated_at": hit.updated_at,
        "backend": hit.backend,
        "size": hit.size,
    }
