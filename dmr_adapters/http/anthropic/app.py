"""Anthropic's Messages API as an ASGI application of its own: what it answers has that dialect's form, errors too."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.anthropic.errors import refusal, shaped
from dmr_adapters.http.anthropic.exchange import MessagesExchange
from dmr_adapters.http.anthropic.listing import listed
from dmr_adapters.http.anthropic.paths import AnthropicRoute
from dmr_adapters.http.anthropic.request import read_request, translate
from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.errors import is_stock_cli
from dmr_adapters.http.fidelity import Fidelity, HonouredFields
from dmr_adapters.http.inference.body import Body, decode_body, read_keep_alive
from dmr_adapters.http.inference.planning import plan_for
from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_adapters.http.services import Services
from dmr_core.domain.capability import Dialect
from dmr_core.errors import InvalidRequestError
from dmr_core.services.inference import Plan

__all__ = ["AnthropicApp"]

_CHAT: Final = "/v1/chat/completions"
_MAX_SHOWN: Final = 200
# What a message may ask for that a chat completion can honour, where an engine's own Messages API does not.
_BETTER_TRANSLATED: Final = frozenset({"output_config", "output_format", "thinking", "tool_choice"})


class AnthropicApp:
    """Answers messages, counts of their tokens, and the list of models."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._limit = services.settings.max_body
        self._honoured = HonouredFields(services)
        self._forced = Dialect.ANTHROPIC in services.settings.translate

    async def answer(self, route: AnthropicRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        path, method = scope["path"], scope["method"]
        if route.inference is None:
            models = listed(self._services, path, scope["query_string"]) if method in ("GET", "HEAD") else None
            response = models or shaped(404, f"Not found: {method} {path[:_MAX_SHOWN]}")
            await response(scope, receive, send)
        elif method != "POST":
            response = shaped(405, f"{path[:_MAX_SHOWN]} takes POST, not {method[:20]}", {"allow": "POST"})
            await response(scope, receive, send)
        else:
            await self._message(route.inference, scope, receive, send, counting=route.counts)

    async def _message(
        self, route: InferenceRoute, scope: Scope, receive: Receive, send: Send, *, counting: bool
    ) -> None:
        exchange = MessagesExchange.of(self._services, route, scope, send)
        try:
            try:
                content = await read_body(receive, self._limit)
                if route.backend is not None:
                    self._services.backends.get(route.backend)
                body = _decoded(content, allow_remote_media=self._services.settings.allow_remote_media)
                exchange.name = body.model
                if body.keep_alive is not None:
                    exchange.keep_alive = read_keep_alive(body.keep_alive)
                stock = is_stock_cli(exchange.user_agent.decode("latin-1"))
                plan = await plan_for(self._services, route, body.model, stock=stock)
                exchange.chosen(plan)
                asked = self._asked(body, content, plan, exchange, counting=counting)
                await exchange.run(plan, asked, receive)
            except ClientGoneError:
                return
            except Exception as exc:
                await self._refuse(exc, exchange, scope, receive, send)
        finally:
            exchange.finish()

    def _asked(self, body: Body, content: bytes, plan: Plan, exchange: MessagesExchange, *, counting: bool) -> bytes:
        """What goes to the engine: the body as it is, where it speaks the dialect and honours what is asked for."""
        spec = self._services.backends.get(plan.key.backend).spec
        honoured = self._honoured.of(plan.key.backend, exchange.route.upstream)
        ignored = [] if counting else honoured.ignored(body.fields)
        native = Dialect.ANTHROPIC in spec.dialects and not self._forced
        if native and not _BETTER_TRANSLATED.intersection(ignored):
            exchange.natively()
            exchange.tell(Fidelity(ignored=ignored))
            if exchange.strict and not counting:
                exchange.demand(body)
            return content
        chat = self._honoured.of(plan.key.backend, _CHAT)
        made = translate(
            read_request(content), body.fields, chat.takes, remote_media=self._services.settings.allow_remote_media
        )
        exchange.translated()
        if counting:
            exchange.counting = True
            exchange.counter = spec.capabilities().counter if spec.capabilities is not None else None
            made.fidelity.ignored.clear()  # nothing of it is about the length of a prompt
        exchange.tell(made.fidelity)
        if exchange.strict and not counting:
            exchange.demand(body)
        return made.body

    async def _refuse(
        self, error: Exception, exchange: MessagesExchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        relay = exchange.relay
        if relay.started:
            await relay.break_off(error)
            return
        response = refusal(error, name=exchange.name)
        relay.status = response.status_code
        exchange.note_time()
        response.raw_headers.extend(relay.headers)
        if relay.recording is not None:
            relay.recording.add(bytes(response.body))
        await response(scope, receive, send)


def _decoded(content: bytes, *, allow_remote_media: bool) -> Body:
    """As :func:`decode_body`, with the words this dialect's clients know."""
    try:
        return decode_body(content, allow_remote_media=allow_remote_media)
    except InvalidRequestError as exc:
        if exc.message == "model is required":
            raise InvalidRequestError("Missing required field: model", param="model") from exc
        cause = exc.__cause__
        if isinstance(cause, msgspec.DecodeError) and not isinstance(cause, msgspec.ValidationError):
            raise InvalidRequestError(f"Invalid JSON in request body: {cause}") from exc
        raise
