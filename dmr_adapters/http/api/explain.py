"""``GET /dmr/v1/explain``: where every setting of a model comes from."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.errors import error_response
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.provenance import Claim
from dmr_core.errors import DmrError, InvalidRequestError
from dmr_core.services.explaining import Explanation

__all__ = ["ExplainApi"]


class ExplainApi:
    """Handler of ``/dmr/v1/explain``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def explain(self, request: Request) -> Response:
        """``GET /dmr/v1/explain?model=NAME[&mode=MODE][&backend=NAME]``."""
        query = request.query_params
        name, mode = query.get("model", ""), query.get("mode", "")
        try:
            if not name:
                raise InvalidRequestError("model is required", param="model")
            await self._services.catalog.find_fresh(name)
            found = await self._services.management().explaining.explain(
                name, EngineMode.parse(mode) if mode else EngineMode.COMPLETION, query.get("backend") or None
            )
        except DmrError as exc:
            return error_response(exc, openai=False)
        return json_response(_explanation_json(found))


def _explanation_json(found: Explanation) -> dict[str, Any]:
    return {
        "model": found.name,
        "model_id": str(found.key.model_id),
        "backend": found.key.backend,
        "mode": found.key.mode.value,
        "reason": found.reason,
        "settings": [
            {
                "name": setting.name,
                **_claim_json(setting.claim),
                "overrode": [_claim_json(claim) for claim in setting.overrode],
            }
            for setting in found.settings
        ],
        "argv": list(found.argv),
        "running": [
            {
                "name": one.view.alias,
                "phase": one.view.phase.value,
                "pid": one.view.pid,
                "keep_alive": str(one.view.keep_alive),
                "restart_pending": one.restart_pending,
                "argv": list(one.argv),
            }
            for one in found.running
        ],
    }


def _claim_json(claim: Claim) -> dict[str, str]:
    return {"value": claim.value, "source": claim.source.value, "by": claim.by}
