"""``POST /api/chat`` and ``POST /api/generate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.fidelity import Fidelity, HonouredFields
from dmr_adapters.http.inference.body import read_keep_alive
from dmr_adapters.http.inference.media import check_media
from dmr_adapters.http.inference.planning import plan_for
from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_adapters.http.ollama.context import fit_context
from dmr_adapters.http.ollama.errors import refusal
from dmr_adapters.http.ollama.exchange import OllamaExchange, empty_answer, fields_of
from dmr_adapters.http.ollama.go_template import render_chat, render_prompt
from dmr_adapters.http.ollama.lines import Kind
from dmr_adapters.http.ollama.messages import is_elsewhere, translate_messages
from dmr_adapters.http.ollama.model_settings import ModelSettings, SettingsReader
from dmr_adapters.http.ollama.names import thinks_not
from dmr_adapters.http.ollama.relay import JSON
from dmr_adapters.http.ollama.request import AnswerBody, ChatBody, GenerateBody, named, read
from dmr_adapters.http.ollama.translation import (
    CHAT,
    COMPLETIONS,
    INFILL,
    Upstream,
    chat_request,
    completion_request,
    prompt_messages,
)
from dmr_adapters.http.services import Services
from dmr_core.domain.capability import Capabilities
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidRequestError, UnsupportedOperationError
from dmr_core.services.inference import Plan

__all__ = ["AnsweringApi", "keep_alive_of", "unload"]

_CHAT_ROUTE: Final = InferenceRoute(None, EngineMode.COMPLETION, CHAT)


class AnsweringApi:
    """Chats and generations: translated, sent the way every inference goes, and translated back."""

    def __init__(self, services: Services, honoured: HonouredFields, settings: SettingsReader) -> None:
        self._services = services
        self._limit = services.settings.max_body
        self._honoured = honoured
        self._settings = settings

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /api/chat``."""
        await self._answer(Kind(chat=True), scope, receive, send)

    async def generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /api/generate``."""
        await self._answer(Kind(chat=False), scope, receive, send)

    async def _answer(self, kind: Kind, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = OllamaExchange.of(self._services, _CHAT_ROUTE, {**scope, "query_string": b""}, send)
        exchange.kind = kind
        try:
            try:
                content = await read_body(receive, self._limit)
                body, unknown = read(content, ChatBody if kind.chat else GenerateBody)
                exchange.name = named(body)
                options = body.options or {}
                exchange.keep_alive = keep_alive_of(body, options)
                if _is_empty(body):
                    await self._load(exchange, body, receive)
                    return
                plan = await plan_for(self._services, _CHAT_ROUTE, exchange.name, stock=False)
                settings = await self._settings.of(plan.key.model_id)
                asked = self._asked(body, plan, exchange, settings)
                asked.fidelity.ignored[:0] = unknown
                check_media(_images(body), allow_remote=self._services.settings.allow_remote_media)
                exchange.chosen(plan)
                merged = {**settings.parameters, **options}
                await fit_context(self._services, exchange.name, plan, merged, asked.fidelity)
                exchange.tell(asked.fidelity)
                if exchange.strict:
                    exchange.demand(fields_of(asked))
                await exchange.run(plan, asked.body, receive)
            except ClientGoneError:
                return
            except Exception as exc:
                await self._refuse(exc, exchange, scope, receive, send)
        finally:
            exchange.finish()

    async def _load(self, exchange: OllamaExchange, body: AnswerBody, receive: Receive) -> None:
        """There is nothing to say: load the model, or, kept for no time, unload it."""
        plan = await plan_for(self._services, _CHAT_ROUTE, exchange.name, stock=False)
        if exchange.keep_alive is not None and exchange.keep_alive.seconds == 0:
            await unload(self._services, exchange.name)
            content = empty_answer(exchange.kind, exchange.name, self._services.clock.time(), "unload")
            await exchange.relay.whole(200, [JSON], content)
            return
        fidelity = Fidelity()
        await fit_context(self._services, exchange.name, plan, body.options or {}, fidelity)
        exchange.chosen(plan)
        exchange.tell(fidelity)
        exchange.loads = True
        await exchange.run(plan, b"{}", receive)

    def _asked(self, body: AnswerBody, plan: Plan, exchange: OllamaExchange, settings: ModelSettings) -> Upstream:
        spec = self._services.backends.get(plan.key.backend).spec
        capabilities = spec.capabilities() if spec.capabilities is not None else Capabilities()
        options = {**settings.parameters, **(body.options or {})}
        exchange.counter = exchange.counting = capabilities.counter
        if isinstance(body, ChatBody):
            exchange.counter = None
            messages = settings.before(translate_messages(body.messages or ()))
            if settings.template:
                return self._by_template(body, plan, exchange, options, settings.template, messages)
            return self._as_chat(body, plan, exchange, options, messages)
        assert isinstance(body, GenerateBody)  # noqa: S101 - there are two kinds
        return self._generation(body, plan, exchange, options, settings)

    def _as_chat(
        self,
        body: ChatBody,
        plan: Plan,
        exchange: OllamaExchange,
        options: Mapping[str, Any],
        messages: list[dict[str, Any]],
    ) -> Upstream:
        exchange.translated(CHAT, thinks=body.think is not False)
        made = chat_request(body, exchange.name, options, self._takes(plan, CHAT), messages)
        model = self._services.catalog.by_id(plan.key.model_id)
        if body.think and "think" not in made.fidelity.ignored and model is not None and thinks_not(model):
            made.fidelity.ignored.append("think")
        return made

    def _by_template(
        self,
        body: ChatBody,
        plan: Plan,
        exchange: OllamaExchange,
        options: Mapping[str, Any],
        template: str,
        messages: list[dict[str, Any]],
    ) -> Upstream:
        """A chat with a model that was given a template in Go's language, which no engine reads."""
        prompt = render_chat(template, [(str(one["role"]), _text_of(one["content"])) for one in messages])
        same = GenerateBody(**{name: getattr(body, name) for name in AnswerBody.__struct_fields__})
        made = self._completion(same, plan, exchange, options, prompt)
        made.fidelity.ignored += ["tools"] if body.tools else []
        made.fidelity.ignored += ["images"] if any(one.images for one in body.messages or ()) else []
        return made

    def _generation(
        self,
        body: GenerateBody,
        plan: Plan,
        exchange: OllamaExchange,
        options: Mapping[str, Any],
        settings: ModelSettings,
    ) -> Upstream:
        if body.raw and (body.template or body.system or body.context):
            raise InvalidRequestError("raw mode does not support template, system, or context", param="raw")
        if body.suffix:
            return self._infill(body, plan, exchange, options)
        system = body.system if body.system is not None else settings.system
        template = body.template or settings.template
        if body.raw:
            exchange.counter = None
            return self._completion(body, plan, exchange, options, body.prompt or "")
        if template:
            exchange.prompt = render_prompt(template, system=system or "", prompt=body.prompt or "")
            if not body.context:
                return self._completion(body, plan, exchange, options, exchange.prompt)
        else:
            exchange.messages = prompt_messages(body, system)
        if body.context:
            return self._continued(body, plan, exchange, options)
        messages = exchange.messages or []
        if body.images:
            exchange.messages = exchange.counter = None  # templates do not say what tokens an image is
        chat = ChatBody(**{name: getattr(body, name) for name in AnswerBody.__struct_fields__})
        return self._as_chat(chat, plan, exchange, options, messages)

    def _infill(self, body: GenerateBody, plan: Plan, exchange: OllamaExchange, options: Mapping[str, Any]) -> Upstream:
        honoured = self._honoured.of(plan.key.backend, INFILL)
        if honoured.fields is None:
            raise UnsupportedOperationError(
                f"the engine of {exchange.name!r}, {plan.key.backend!r}, cannot fill in a middle: leave out suffix"
            )
        exchange.counter = None
        exchange.translated(INFILL, thinks=True)
        return completion_request(body, exchange.name, options, honoured.takes, body.prompt or "")

    def _completion(
        self, body: GenerateBody, plan: Plan, exchange: OllamaExchange, options: Mapping[str, Any], prompt: str
    ) -> Upstream:
        exchange.translated(COMPLETIONS, thinks=True)
        return completion_request(body, exchange.name, options, self._takes(plan, COMPLETIONS), prompt)

    def _continued(
        self, body: GenerateBody, plan: Plan, exchange: OllamaExchange, options: Mapping[str, Any]
    ) -> Upstream:
        """A conversation that goes on from its tokens: the new turn is put into the template, and into tokens, first."""
        if exchange.counter is None:
            raise UnsupportedOperationError(
                f"the engine of {exchange.name!r}, {plan.key.backend!r}, does not tell the tokens of a template: "
                "use /api/chat instead of context"
            )
        exchange.earlier = list(body.context or ())
        exchange.translated(COMPLETIONS, thinks=True)
        takes = self._takes(plan, COMPLETIONS)
        exchange.compose = lambda tokens: completion_request(body, exchange.name, options, takes, tokens)
        return completion_request(body, exchange.name, options, takes, [])

    def _takes(self, plan: Plan, path: str) -> Callable[[str], bool]:
        return self._honoured.of(plan.key.backend, path).takes

    async def _refuse(
        self, error: Exception, exchange: OllamaExchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        relay = exchange.relay
        if relay.started:
            await relay.break_off(error)
            return
        response = refusal(error, exchange.name)
        relay.status = response.status_code
        exchange.note_time()
        response.raw_headers.extend(relay.headers)
        if relay.recording is not None:
            relay.recording.add(bytes(response.body))
        await response(scope, receive, send)


def keep_alive_of(body: Any, options: Mapping[str, Any]) -> KeepAlive | None:
    """For how long the model is to be kept; also taken from the options, as the reference does.

    Raises:
        InvalidConfigurationError: it is no duration.
    """
    value = body.keep_alive if body.keep_alive is not None else options.get("keep_alive")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidRequestError(f"keep_alive must be a string or number, got {value!r:.40}", param="keep_alive")
    return read_keep_alive(value)


async def unload(services: Services, name: str) -> None:
    """Let the model's runners go, and wait until those that were idle are gone."""
    chosen = services.inference.unload(models=(name,))
    await services.scheduler.settled(view.id for view in chosen if not view.leases)


def _text_of(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def _is_empty(body: AnswerBody) -> bool:
    if isinstance(body, ChatBody):
        return not body.messages
    assert isinstance(body, GenerateBody)  # noqa: S101 - there are two kinds
    return not body.prompt and not body.images and not body.suffix


def _images(body: AnswerBody) -> bytes:
    """The images that are addresses, in a form in which those elsewhere are found."""
    images = list(body.images or ()) if isinstance(body, GenerateBody) else []
    if isinstance(body, ChatBody):
        images = [image for message in body.messages or () for image in message.images or ()]
    return orjson.dumps({"images": [{"url": image} for image in map(str.strip, images) if is_elsewhere(image)]})
