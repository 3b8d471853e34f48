"""``/engines/requests``: what was asked lately, and what was answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.errors import error_response, is_stock_cli, plain_text
from dmr_adapters.http.event_stream import PING, EventStream, event
from dmr_adapters.http.rest_json import configured_json
from dmr_adapters.http.services import Services
from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.exchange import Account, Exchange, account
from dmr_core.domain.redaction import shorten
from dmr_core.errors import InvalidReferenceError, ModelNotFoundError, UnavailableError
from dmr_core.services.recording import Recorder, Subscription, SubscriptionEnd

__all__ = ["RequestsApi"]

_OFF: Final = "requests are not recorded: start the service with DMR_RECORD_REQUESTS=1 to record them"
_PING_EVERY: Final = 15.0
_MAX_LINE: Final = 60_000  # clients of the reference read lines of 64 KiB at most
_TRUE: Final = frozenset({"1", "t", "true"})


class RequestsApi:
    """Handlers of ``/engines/requests``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._one_at_a_time = asyncio.Lock()

    async def get(self, request: Request) -> Response:
        """``GET /engines/requests``: a list, or with ``Accept: text/event-stream`` events as requests end."""
        recorder = self._services.recorder
        if recorder is None:
            return plain_text(_OFF, 404)
        models = self._models(request.query_params.get("model", ""))
        if request.headers.get("accept", "").strip().lower() != "text/event-stream":
            return await self._list(recorder, models)
        existing = request.query_params.get("include_existing", "").lower() in _TRUE
        try:
            subscription = recorder.subscribe(models)
        except UnavailableError as exc:
            response = error_response(exc, openai=False)
            if is_stock_cli(request.headers.get("user-agent", "")):
                response.status_code = 429  # see the wire protocol: to that CLI, 503 means "not running"
            return response
        return EventStream(self._events(recorder, subscription, models, existing=existing), subscription)

    async def _list(self, recorder: Recorder, models: frozenset[str] | None) -> Response:
        kept = recorder.exchanges(models)
        configs = {model_id: self._config(exchanges[-1].key) for model_id, exchanges in kept.items()}

        def render() -> bytes:
            entries = [
                _entry(str(model_id), configs[model_id], [_record(each, account(each)) for each in exchanges])
                for model_id, exchanges in kept.items()
            ]
            return orjson.dumps(entries) + b"\n"

        # Megabytes of bodies take a while to read; meanwhile other requests go on.
        async with self._one_at_a_time:
            content = await asyncio.to_thread(render)
        return Response(content, media_type="application/json")

    async def _events(
        self, recorder: Recorder, subscription: Subscription, models: frozenset[str] | None, *, existing: bool
    ) -> AsyncGenerator[bytes, None]:
        before = recorder.exchanges(models) if existing else {}
        for exchanges in before.values():
            for exchange in exchanges:
                if exchange.status:  # of those under way it will be told when they end
                    yield await self._event("existing_request", exchange)
        yield b'event: connected\ndata: {"status": "connected"}\n\n'
        while not subscription.ended:
            try:
                async with asyncio.timeout(_PING_EVERY):
                    ended = await subscription.next()
            except TimeoutError:
                yield PING
            else:
                if ended is not None:
                    yield await self._event("new_request", ended)
        if subscription.ended == SubscriptionEnd.SLOW:
            yield event("error", {"error": subscription.ended})

    async def _event(self, name: str, exchange: Exchange) -> bytes:
        config = self._config(exchange.key)
        async with self._one_at_a_time:
            return await asyncio.to_thread(_bounded_event, name, exchange, config)

    def _models(self, name: str) -> frozenset[str] | None:
        """IDs and names that ``name`` stands for; a model that is gone is still known by the name it was asked for."""
        if not name:
            return None
        try:
            return frozenset({name, str(self._services.catalog.find(name).id)})
        except (ModelNotFoundError, InvalidReferenceError):
            return frozenset({name})

    def _config(self, key: RunnerKey) -> dict[str, Any]:
        """The settings in effect: those that were stored, else the model's own context size."""
        known = {model.id: model for model in self._services.catalog.list()}
        model = known.get(key.model_id)
        own = {"context-size": model.config.context_size} if model and model.config.context_size else {}
        for entry in self._services.inference.configured():
            if (entry.backend, entry.model.id, entry.mode) == (key.backend, key.model_id, key.mode):
                return {**own, **configured_json(entry)["Config"]}
        return own


def _entry(model: str, config: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    return {"count": len(records), "model": model, "config": config, "records": records}


def _record(exchange: Exchange, told: Account, limit: int | None = None) -> dict[str, Any]:
    """A record; what comes after ``user_agent`` and ``origin`` is more than the reference tells."""
    texts = {"request": told.request, "response": told.response, "error": told.error}
    shown = {name: text if limit is None else shorten(text, limit) for name, text in texts.items()}
    document: dict[str, Any] = {
        "id": exchange.id,
        "model": exchange.model,
        "method": exchange.method,
        "url": exchange.url,
        "request": shown["request"],
    }
    document |= {name: shown[name] for name in ("response", "error") if shown[name]}
    document |= {"timestamp": exchange.at // 10**9, "status_code": told.status}
    extras = {
        "user_agent": told.user_agent,
        "origin": exchange.origin,
        "request_id": exchange.request_id,
        "backend": exchange.key.backend,
        "mode": exchange.key.mode.value,
        "duration_ms": round(exchange.seconds * 1e3, 1),
        "truncated": exchange.cut or shown != texts,
        "abandoned": exchange.abandoned,
    }
    return document | {name: value for name, value in extras.items() if value}


def _bounded_event(name: str, exchange: Exchange, config: dict[str, Any]) -> bytes:
    """An event whose line clients can take."""
    told, limit = account(exchange), _MAX_LINE // 2
    while True:
        line = event(name, [_entry(str(exchange.key.model_id), config, [_record(exchange, told, limit)])])
        if len(line) <= _MAX_LINE or limit == 0:
            return line
        limit //= 2
