"""The models there are, as Anthropic's Models API lists them: ``GET /anthropic/v1/models`` and ``…/models/{name}``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.responses import Response

from dmr_adapters.http.anthropic.errors import shaped
from dmr_adapters.http.services import Services
from dmr_core.domain.model import Model
from dmr_core.errors import DmrError

__all__ = ["listed"]

_PATH: Final = "/anthropic/v1/models"
_DEFAULT: Final = 20
_MOST: Final = 1000


def listed(services: Services, path: str, query: bytes) -> Response | None:
    """The list, or one model of it; ``None`` for another path. Pages as Anthropic's do: ``limit``, ``after_id``, ``before_id``."""
    if path in (_PATH, _PATH + "/"):
        return _page(services, query)
    if not path.startswith(_PATH + "/"):
        return None
    name = path.removeprefix(_PATH + "/")
    try:
        return _json(_document(services.catalog.find(name), name))
    except DmrError:
        return shaped(404, f"Model not found: {name[:100]}")


def _page(services: Services, query: bytes) -> Response:
    asked = {key: values[-1] for key, values in parse_qs(query.decode("latin-1")).items()}
    limit = asked.get("limit", str(_DEFAULT))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:5]) <= _MOST):
        return shaped(400, f"limit: a number from 1 to {_MOST}")
    entries = [_document(model, _name(model)) for model in services.catalog.list()]
    ids = [entry["id"] for entry in entries]
    begin, end = 0, len(entries)
    if asked.get("after_id") in ids:
        begin = ids.index(asked["after_id"]) + 1
    if asked.get("before_id") in ids:
        end = ids.index(asked["before_id"])
        begin = max(begin, end - int(limit))
    page = entries[begin : min(end, begin + int(limit))]
    more = begin + len(page) < len(entries) if "before_id" not in asked else begin > 0
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return _json({"data": page, "has_more": more, "first_id": first, "last_id": last})


def _name(model: Model) -> str:
    return str(model.name)


def _document(model: Model, name: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(model.config.created_unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
