"""``GET /dmr/v1/why``: why a model is, or is not, in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.errors import error_response
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.memory import Memory
from dmr_core.errors import DmrError, InvalidRequestError
from dmr_core.services.diagnosing import Diagnosis, describe

__all__ = ["WhyApi"]


class WhyApi:
    """Handler of ``/dmr/v1/why``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def why(self, request: Request) -> Response:
        """``GET /dmr/v1/why?model=NAME[&mode=MODE]``; a model that is not in the store is an answer, too."""
        name, mode = request.query_params.get("model", ""), request.query_params.get("mode", "")
        try:
            if not name:
                raise InvalidRequestError("model is required", param="model")
            found = await self._services.management().diagnosing.diagnose(
                name, EngineMode.parse(mode) if mode else None
            )
        except DmrError as exc:
            return error_response(exc, openai=False)
        return json_response(_diagnosis_json(found))


def _diagnosis_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "model": found.name,
        "model_id": str(found.model_id) if found.model_id is not None else None,
        "state": found.state,
        "sentences": list(found.sentences),
        "runners": [
            {
                **_key_json(view.key, view.alias),
                "phase": view.phase.value,
                "seconds_in_phase": _rounded(found.monotonic - view.since),
                "load_seconds": _rounded(view.load_seconds),
                "requests": view.leases,
                "idle_seconds": _rounded(None if view.idle_since is None else found.monotonic - view.idle_since),
                "keep_alive": str(view.keep_alive),
                "reserved_bytes": _memory_json(view.needs),
                "used_bytes": _memory_json(view.footprint.memory) if view.footprint is not None else None,
                "pid": view.pid,
            }
            for view in found.runners
        ],
        "waiting": [
            {
                **_key_json(view.key, view.alias),
                "position": view.position,
                "waited_seconds": _rounded(found.monotonic - view.since),
                "waits_for": view.waits_for,
            }
            for view in found.waiting
        ],
        "decisions": [
            {
                **_key_json(decision.key, decision.alias),
                "at": datetime.fromtimestamp(decision.at, UTC).isoformat(timespec="milliseconds"),
                "age_seconds": _rounded(max(0.0, found.now - decision.at)),
                "what": decision.what,
                "why": decision.why,
                "numbers": dict(decision.numbers),
                "text": describe(decision),
            }
            for decision in found.decisions
        ],
    }


def _key_json(key: RunnerKey, alias: str) -> dict[str, Any]:
    return {"backend": key.backend, "mode": key.mode.value, "name": alias}


def _memory_json(memory: Memory) -> dict[str, int]:
    return {"host": memory.host, "device": memory.device}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
