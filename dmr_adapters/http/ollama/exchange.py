"""A request in Ollama's dialect, on its way to an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from dmr_adapters.http.inference.asking import ask_engine
from dmr_adapters.http.inference.body import Body, with_model
from dmr_adapters.http.inference.exchange import Exchange
from dmr_adapters.http.inference.timing import load_share
from dmr_adapters.http.ollama.lines import AnswerLines, Kind
from dmr_adapters.http.ollama.relay import JSON, OllamaRelay
from dmr_adapters.http.ollama.translation import CHAT, COMPLETIONS, Upstream
from dmr_core.domain.capability import TokenCounter
from dmr_core.errors import DmrError
from dmr_core.ports.transport import Endpoint
from dmr_core.services.scheduling.lease import Lease

__all__ = ["OllamaExchange", "empty_answer", "fields_of"]

_TOKENS_TIMEOUT: Final = 10.0
_WAITED: Final = 0.0005

Messages = list[dict[str, Any]]
Compose = Callable[[list[int]], Upstream]
"""The engine's request, made of the tokens of a prompt."""


def empty_answer(kind: Kind, model: str, seconds: float, reason: str) -> bytes:
    """The answer to a request that says nothing: the model was loaded, or unloaded."""
    lines = AnswerLines(kind, model)
    lines.reason = reason
    return lines.end(seconds, {})


@attrs.define(eq=False)
class OllamaExchange(Exchange):
    """One chat or one generation.

    ``loads`` says that there is nothing to be said, so the model is loaded. ``messages`` are the prompt as a chat, or
    ``prompt`` is as it is; of either an answer tells the tokens (``context``) where the engine counts by ``counter``, which
    is ``None`` where nobody wants them; ``counting`` is how the engine counts in any case.
    ``earlier`` are those of a conversation that goes on, which ``compose`` makes a request of.
    """

    kind: Kind = attrs.field(factory=lambda: Kind(chat=True))
    loads: bool = False
    counter: TokenCounter | None = None
    counting: TokenCounter | None = None
    messages: Messages | None = None
    prompt: str | None = None
    earlier: list[int] = attrs.field(factory=list)
    compose: Compose | None = None
    _tokens: list[int] | None = None
    _called: str = ""

    def translated(self, upstream: str, *, thinks: bool) -> None:
        """What the engine answers to ``upstream`` becomes Ollama's lines."""
        relay = self.relay
        lines = AnswerLines(self.kind, self.name, thinks=thinks)
        self.relay = OllamaRelay(relay.send, relay.clock, relay.headers, lines=lines, began=self.began)
        self.relay.infill = upstream == "/infill"
        self.route = attrs.evolve(self.route, upstream=upstream)

    def demand(self, body: Body) -> None:
        """See :class:`Exchange`; only a chat completion is held to anything."""
        if self.route.upstream == CHAT:
            super().demand(body)

    async def converse(self, lease: Lease, body: bytes) -> None:
        """See :class:`Exchange`."""
        if self.loads:
            self.note_time()
            content = empty_answer(self.kind, self.name, self.services.clock.time(), "load")
            await self.relay.whole(200, [*self.relay.headers, JSON], content)
            return
        self._called = lease.served or self.name
        relay = self.relay
        if isinstance(relay, OllamaRelay):
            if self.counter is not None and (self.messages is not None or self.prompt is not None):
                relay.more = lambda text: self._context(lease.endpoint, text)
            relay.load = self._load_seconds()
            if self.compose is not None:
                tokens = await self._prompt_tokens(lease.endpoint)
                composed = self.compose(tokens).body
                body = with_model(composed, lease.served) if lease.served else composed
            if self.route.upstream == COMPLETIONS and self.counting is TokenCounter.TOKENIZE:
                body = await self._unbounded(lease.endpoint, body)
            relay.sent = self.services.clock.monotonic()
        await super().converse(lease, body)

    async def _unbounded(self, endpoint: Endpoint, body: bytes) -> bytes:
        """A completion with its end where the context's is, as Ollama's have it; vLLM's end after 16 tokens."""
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if "max_tokens" in fields:
            return body
        prompt = msgspec.json.decode(fields["prompt"])
        asked = {"model": self._called, "prompt": prompt if isinstance(prompt, str) else ""}
        told = await self._ask(endpoint, "/tokenize", asked)
        count: Any = told.get("count") if isinstance(prompt, str) else len(prompt)
        most: Any = told.get("max_model_len")
        if not isinstance(count, int) or not isinstance(most, int) or most <= count:
            return body  # too long a prompt is the engine's to refuse
        return msgspec.json.encode({**fields, "max_tokens": most - count})

    def _load_seconds(self) -> float:
        leased = self.leased or self.asked
        if leased - self.asked <= _WAITED or self.plan is None:
            return 0.0
        return load_share(self.services.scheduler.runners(), self.plan.key, self.asked, leased)

    async def _context(self, endpoint: Endpoint, text: str) -> dict[str, Any]:
        """The tokens of the conversation up to here. An answer is complete without them, so nothing waits for long."""
        try:
            async with asyncio.timeout(_TOKENS_TIMEOUT):
                tokens = await self._prompt_tokens(endpoint)
                return {"context": [*tokens, *await self._tokenized(endpoint, text, begins=False)]}
        except (DmrError, TimeoutError):
            return {}

    async def _prompt_tokens(self, endpoint: Endpoint) -> list[int]:
        if self._tokens is None:
            begins = not self.earlier
            if self.messages is not None and self.counter is TokenCounter.TOKENIZE:
                asked = {"model": self._called, "messages": self.messages}
                new = _tokens_in(await self._ask(endpoint, "/tokenize", asked))
            else:
                prompt = self.prompt if self.messages is None else await self._rendered(endpoint, self.messages)
                new = await self._tokenized(endpoint, prompt or "", begins=begins)
            self._tokens = [*self.earlier, *new]
        return self._tokens

    async def _rendered(self, endpoint: Endpoint, messages: Messages) -> str:
        prompt = (await self._ask(endpoint, "/apply-template", {"messages": messages})).get("prompt")
        return prompt if isinstance(prompt, str) else ""

    async def _tokenized(self, endpoint: Endpoint, text: str, *, begins: bool) -> list[int]:
        if self.counter is TokenCounter.TOKENIZE:
            asked: dict[str, Any] = {"model": self._called, "prompt": text, "add_special_tokens": begins}
        else:
            asked = {"content": text, "add_special": begins, "parse_special": True}
        return _tokens_in(await self._ask(endpoint, "/tokenize", asked))

    async def _ask(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await ask_engine(self.services.transport, endpoint, path, body)


def _tokens_in(answer: dict[str, Any]) -> list[int]:
    tokens = answer.get("tokens")
    return [token for token in tokens if isinstance(token, int)] if isinstance(tokens, list) else []


def fields_of(upstream: Upstream) -> Body:
    """What is demanded of an answer is read off the request as it goes to the engine."""
    return Body("", None, msgspec.json.decode(upstream.body, type=dict[str, msgspec.Raw]))
