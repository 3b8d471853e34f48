"""``POST /api/embed``, and ``POST /api/embeddings``, its elder."""

from __future__ import annotations

from typing import Any, Final

import attrs
import orjson
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.fidelity import Fidelity, HonouredFields
from dmr_adapters.http.inference.asking import ask_engine
from dmr_adapters.http.inference.body import with_model
from dmr_adapters.http.inference.exchange import Exchange
from dmr_adapters.http.inference.planning import plan_for
from dmr_adapters.http.inference.relay import read_all
from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_adapters.http.inference.timing import load_share
from dmr_adapters.http.ollama.answering import keep_alive_of
from dmr_adapters.http.ollama.errors import client_error, engine_error, refusal
from dmr_adapters.http.ollama.options import translate_options
from dmr_adapters.http.ollama.relay import JSON, plain_answer
from dmr_adapters.http.ollama.request import EmbedBody, EmbeddingsBody, named, read
from dmr_adapters.http.ollama.vectors import Vectors, encoded, limit_in, read_vectors, shortened
from dmr_adapters.http.services import Services
from dmr_core.domain.capability import Capabilities, TokenCounter
from dmr_core.domain.engine import EngineMode
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.services.scheduling.lease import Lease

__all__ = ["EmbeddingApi"]

_ROUTE: Final = InferenceRoute(None, EngineMode.EMBEDDING, "/v1/embeddings")
_HEADERS: Final = ((b"host", b"localhost"), (b"content-type", b"application/json"))
_NANO: Final = 1_000_000_000
_MAX_ERROR: Final = 1024 * 1024
_WAITED: Final = 0.0005

Inputs = list[str] | list[list[int]]


class EmbeddingApi:
    """Texts to vectors."""

    def __init__(self, services: Services, honoured: HonouredFields) -> None:
        self._services = services
        self._honoured = honoured

    async def embed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /api/embed``: one text or a list of them."""
        await self._answer(EmbedBody, scope, receive, send)

    async def embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /api/embeddings``: one text."""
        await self._answer(EmbeddingsBody, scope, receive, send)

    async def _answer(self, kind: type[EmbedBody | EmbeddingsBody], scope: Scope, receive: Receive, send: Send) -> None:
        exchange = EmbedExchange.of(self._services, _ROUTE, {**scope, "query_string": b""}, send)
        try:
            try:
                body, unknown = read(await read_body(receive, self._services.settings.max_body), kind)
                exchange.name = named(body)
                options = body.options or {}
                exchange.keep_alive = keep_alive_of(body, options)
                plan = await plan_for(self._services, _ROUTE, exchange.name, stock=False)
                spec = self._services.backends.get(plan.key.backend).spec
                capabilities = spec.capabilities() if spec.capabilities is not None else Capabilities()
                exchange.counter = capabilities.counter
                self._read(body, exchange)
                exchange.chosen(plan)
                # Nothing that is drawn has a part in an embedding; ``num_ctx`` and the like are of no use here either.
                ignored = [f"options.{name}" for name in options if name != "keep_alive" and options[name] is not None]
                translate_options(options, lambda _field: False)  # for the bounds
                emulated = ["dimensions"] if exchange.dimensions else []
                exchange.tell(Fidelity(ignored=[*unknown, *ignored], emulated=emulated))
                await exchange.run(plan, exchange.request(exchange.inputs), receive)
            except ClientGoneError:
                return
            except Exception as exc:
                await self._refuse(exc, exchange, scope, receive, send)
        finally:
            exchange.finish()

    def _read(self, body: EmbedBody | EmbeddingsBody, exchange: EmbedExchange) -> None:
        if isinstance(body, EmbeddingsBody):
            exchange.single = True
            exchange.inputs = [body.prompt] if body.prompt else []
            return
        given = body.input
        exchange.inputs = [given] if isinstance(given, str) and given else list(given or ())
        exchange.cuts = body.truncate is not False
        exchange.dimensions = body.dimensions or 0

    async def _refuse(
        self, error: Exception, exchange: EmbedExchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        relay = exchange.relay
        if relay.started:
            raise error
        response = refusal(error, exchange.name)
        relay.status = response.status_code
        exchange.note_time()
        response.raw_headers.extend(relay.headers)
        await response(scope, receive, send)


@attrs.define(eq=False)
class EmbedExchange(Exchange):
    """One request for vectors of ``inputs``.

    ``cuts`` lets inputs that are too long be cut, ``dimensions`` (not 0) shortens the vectors, ``single`` is the form of
    the older route.
    """

    inputs: list[str] = attrs.field(factory=list)
    cuts: bool = True
    dimensions: int = 0
    single: bool = False
    counter: TokenCounter | None = None

    def request(self, inputs: Inputs) -> bytes:
        """The engine's request."""
        body: dict[str, Any] = {"model": self.name, "input": inputs}
        if self.cuts and self.counter is TokenCounter.TOKENIZE:
            body["truncate_prompt_tokens"] = -1  # vLLM cuts by itself
        return orjson.dumps(body)

    async def converse(self, lease: Lease, body: bytes) -> None:
        """See :class:`Exchange`."""
        vectors = Vectors([])
        if self.inputs:
            status, content = await self._asked(lease, body)
            limit = limit_in(engine_error(content, status)) if status >= 400 and self.cuts else None
            if limit is not None and self.counter is TokenCounter.TEMPLATE:
                again = self.request(await self._cut(lease, limit))
                status, content = await self._asked(lease, with_model(again, lease.served) if lease.served else again)
            if status >= 400:
                message = engine_error(content, status)
                await plain_answer(self.relay, client_error(status, message), message)
                return
            vectors = read_vectors(content)
        self.note_time()
        await self.relay.whole(200, [*self.relay.headers, JSON], encoded(self._document(vectors)))

    def _document(self, vectors: Vectors) -> dict[str, Any]:
        found = vectors.all()
        if self.dimensions:
            found = [shortened(vector, self.dimensions) for vector in found]
        if self.single:
            return {"embedding": found[0] if found else []}
        now = self.services.clock.monotonic()
        return {
            "model": self.name,
            "embeddings": found,
            "total_duration": int((now - self.began) * _NANO),
            "load_duration": int(self._load_seconds() * _NANO),
            "prompt_eval_count": vectors.usage.prompt_tokens,
        }

    def _load_seconds(self) -> float:
        if self.leased - self.asked <= _WAITED or self.plan is None:
            return 0.0
        return load_share(self.services.scheduler.runners(), self.plan.key, self.asked, self.leased)

    async def _asked(self, lease: Lease, body: bytes) -> tuple[int, bytes]:
        response = await self.services.transport.send(
            lease.endpoint, UpstreamRequest("POST", _ROUTE.upstream, _HEADERS, body)
        )
        try:
            if response.status >= 400:
                return response.status, await read_all(response, limit=_MAX_ERROR)
            return response.status, await read_all(response)
        finally:
            await response.aclose()

    async def _cut(self, lease: Lease, limit: int) -> list[list[int]]:
        """Every input in tokens, the first ``limit`` of them; said in the answer, as it is not what was asked for."""
        cut = []
        for text in self.inputs:
            asked = {"content": text, "add_special": True}
            found = (await ask_engine(self.services.transport, lease.endpoint, "/tokenize", asked)).get("tokens")
            tokens = [token for token in found if isinstance(token, int)] if isinstance(found, list) else []
            cut.append(tokens[:limit])
        told = Fidelity(clamped={"input": f"{limit} tokens"})
        self.relay.headers.extend(told.headers())
        return cut
