"""Inference requests as an ASGI application of their own."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.errors import is_stock_cli
from dmr_adapters.http.fidelity import Fidelity, HonouredFields
from dmr_adapters.http.inference.body import Body, decode_body, read_keep_alive
from dmr_adapters.http.inference.exchange import Exchange
from dmr_adapters.http.inference.planning import plan_for
from dmr_adapters.http.inference.refusal import refusal
from dmr_adapters.http.inference.routes import InferenceRoute, match_inference
from dmr_adapters.http.services import Services
from dmr_core.services.inference import Plan

__all__ = ["InferenceApp"]

_MAX_ROUTES: Final = 256


class InferenceApp:
    """Answers inference requests. Pure ASGI; dispatched before any router."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._limit = services.settings.max_body
        self._routes: dict[str, InferenceRoute] = {}
        self._honoured = HonouredFields(services)

    def route(self, path: str) -> InferenceRoute | None:
        """As :func:`match_inference`, remembering the few paths there are."""
        found = self._routes.get(path)
        if found is None:
            found = match_inference(path)
            if found is not None and len(self._routes) < _MAX_ROUTES:
                self._routes[path] = found
        return found

    async def answer(self, route: InferenceRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        exchange = Exchange.of(self._services, route, scope, send)
        try:
            try:
                body = await read_body(receive, self._limit)
                if route.backend is not None:
                    self._services.backends.get(route.backend)
                decoded = decode_body(body, allow_remote_media=self._services.settings.allow_remote_media)
                plan = await self._plan(route, decoded, exchange)
                exchange.chosen(plan)
                self._compare(decoded, plan, exchange)
                await exchange.run(plan, body, receive)
            except ClientGoneError:
                return
            except Exception as exc:
                await self._refuse(exc, exchange, scope, receive, send)
        finally:
            exchange.finish()

    def _plan(self, route: InferenceRoute, body: Body, exchange: Exchange) -> Awaitable[Plan]:
        exchange.name = body.model
        if body.keep_alive is not None:
            exchange.keep_alive = read_keep_alive(body.keep_alive)
        stock = is_stock_cli(exchange.user_agent.decode("latin-1"))
        return plan_for(self._services, route, body.model, stock=stock)

    def _compare(self, body: Body, plan: Plan, exchange: Exchange) -> None:
        """What the engine will ignore is said in the answer, or refused. Mostly one comparison of two sets."""
        ignored = self._honoured.of(plan.key.backend, exchange.route.upstream).ignored(body.fields)
        if ignored:
            exchange.tell(Fidelity(ignored=ignored))
        if exchange.strict:
            exchange.demand(body)

    async def _refuse(self, error: Exception, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        relay = exchange.relay
        if relay.started:
            await relay.break_off(error)
            return
        stock = is_stock_cli(exchange.user_agent.decode("latin-1"))
        loading = exchange.plan is not None and not exchange.leased
        response = refusal(error, name=exchange.name, loading=loading, stock=stock)
        relay.status = response.status_code
        exchange.note_time()
        response.raw_headers.extend(relay.headers)
        if relay.recording is not None:
            relay.recording.add(bytes(response.body))
        await response(scope, receive, send)
