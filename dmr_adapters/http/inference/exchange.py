"""One request and its answer: lease, send, relay, and what is noted on the way."""

from __future__ import annotations

import asyncio
from typing import Final, Self

import attrs
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.credentials import ENGINE_KEY, engine_key
from dmr_adapters.http.errors import is_stock_cli
from dmr_adapters.http.fidelity import DMR_STRICT, Fidelity, is_strict
from dmr_adapters.http.inference.body import Body, with_model
from dmr_adapters.http.inference.refusal import explain
from dmr_adapters.http.inference.relay import Relay
from dmr_adapters.http.inference.routes import InferenceRoute
from dmr_adapters.http.inference.timing import load_share, server_timing
from dmr_adapters.http.model_name import renamer
from dmr_adapters.http.services import Services
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import AnswerViolationError, UpstreamError
from dmr_core.ports.transport import UpstreamRequest, UpstreamResponse
from dmr_core.services.inference import Plan
from dmr_core.services.scheduling.lease import Lease

__all__ = ["Exchange"]

_FORWARDED: Final = (b"content-type", b"accept")
_MAX_REQUEST_ID: Final = 128
_MAX_USER_AGENT: Final = 256
_WAITED: Final = 0.0005  # a lease on a ready runner takes microseconds; longer than this, somebody had to wait


@attrs.define(eq=False)
class Exchange:
    """One request and its answer. ``asked``, ``leased`` and ``ended`` are monotonic seconds."""

    services: Services
    route: InferenceRoute
    scope: Scope
    relay: Relay
    began: float
    name: str = ""
    plan: Plan | None = None
    keep_alive: KeepAlive | None = None
    asked: float = 0.0
    leased: float = 0.0
    user_agent: bytes = b""
    request_id: bytes = b""
    preload: bool = False
    engine_key: bytes = attrs.field(default=b"", repr=False)
    abandoned: bool = False
    strict: bool = False
    _timed: bool = False

    @classmethod
    def of(cls, services: Services, route: InferenceRoute, scope: Scope, send: Send) -> Self:
        """The exchange of a request that has just arrived."""
        clock = services.clock
        exchange = cls(services, route, scope, Relay(send, clock), clock.monotonic())
        exchange.strict = services.settings.strict
        for key, value in scope["headers"]:
            if key == b"user-agent":
                exchange.user_agent = value
            elif key == b"x-preload-only":
                exchange.preload = value == b"true"
            elif key == DMR_STRICT:
                exchange.strict = is_strict(value)
            elif key == ENGINE_KEY:
                exchange.engine_key = value
            elif key == b"x-request-id" and len(value) <= _MAX_REQUEST_ID:
                exchange.request_id = value
                exchange.relay.headers.append((key, value))
        return exchange

    async def run(self, plan: Plan, body: bytes, receive: Receive) -> None:
        """Lease, send, relay; ends early when the client does."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks

        def client_left(_watch: asyncio.Task[object]) -> None:
            if not _watch.cancelled():
                self.abandoned = True
                task.cancel()

        watch = asyncio.ensure_future(_disconnected(receive))
        watch.add_done_callback(client_left)
        try:
            await self._serve(plan, body)
        except asyncio.CancelledError:
            if not self.abandoned or task.uncancel():
                raise
        finally:
            watch.remove_done_callback(client_left)
            watch.cancel()

    def finish(self) -> None:
        """Tell the figures and the recorder how it went. Never fails the request it is about."""
        plan, relay, services = self.plan, self.relay, self.services
        if plan is None:
            return
        ended = services.clock.monotonic()
        backend, mode = plan.key.backend, plan.key.mode.value
        services.metrics.request(backend=backend, mode=mode, status=relay.status, seconds=ended - self.began)
        if relay.pieces and relay.status == 200 and not self.abandoned:
            gap = (ended - relay.first) / (relay.pieces - 1) if relay.pieces > 1 else None
            services.metrics.streamed(backend=backend, mode=mode, first=relay.first - self.began, gap=gap)
        if relay.recording is not None:
            relay.recording.finish(relay.status, ended - self.began, abandoned=self.abandoned)

    def chosen(self, plan: Plan) -> None:
        """It is known where the request goes, and why."""
        self.plan = plan
        text = f"{plan.key.backend}; reason={plan.reason}" if plan.reason else plan.key.backend
        self.relay.headers.append((b"x-dmr-backend", text.encode("ascii", "replace")))

    def tell(self, fidelity: Fidelity) -> None:
        """Say in the answer what became of the request's fields.

        Raises:
            UnsupportedFieldError: this is not what the client wants.
        """
        if self.strict:
            fidelity.insist()
        self.relay.headers.extend(fidelity.headers())

    def demand(self, body: Body) -> None:
        """Hold a chat's answer to the schemas in its request; see :mod:`dmr_adapters.http.strictness`."""
        from dmr_adapters.http.strictness.check import checker  # noqa: PLC0415 - few requests are strict
        from dmr_adapters.http.strictness.demand import chat_demand  # noqa: PLC0415 - as above

        demanded = chat_demand(body.fields) if self.route.upstream == "/v1/chat/completions" else None
        if demanded is not None:
            self.relay.check = checker(demanded)

    def note_time(self) -> None:
        """Say in the answer where the time went until now; once."""
        if not self.asked or self._timed:
            return
        self._timed = True
        now = self.services.clock.monotonic()
        leased = self.leased or now
        waited, load = leased - self.asked, 0.0
        if waited > _WAITED and self.plan is not None:
            load = load_share(self.services.scheduler.runners(), self.plan.key, self.asked, leased)
        self.relay.headers.append((b"server-timing", server_timing(waited - load, load, now - leased)))

    async def _serve(self, plan: Plan, body: bytes) -> None:
        services = self.services
        self.asked = services.clock.monotonic()
        # The stock CLI takes a 503 for "not running", so it waits for as long as it likes.
        stock = self.relay.stock = is_stock_cli(self.user_agent.decode("latin-1"))
        secret = engine_key(self.engine_key) if self.engine_key else None
        with await services.inference.lease(plan, keep_alive=self.keep_alive, patient=stock, secret=secret) as lease:
            self.leased = services.clock.monotonic()
            if self.preload:
                self.note_time()
                await self.relay.whole(200, self.relay.headers, b"")
                return
            if services.recorder is not None:
                self._record(plan, body)
            try:
                await self.converse(lease, with_model(body, lease.served) if lease.served else body)
            except AnswerViolationError:
                raise  # the engine is well; it said something else than it was to say
            except UpstreamError as exc:
                raise await explain(lease, exc) from exc

    async def converse(self, lease: Lease, body: bytes) -> None:
        """Ask the engine and relay what it answers.

        Raises:
            UpstreamError: the engine broke off, or its answer is not what was demanded.
        """
        response: UpstreamResponse | None = None
        try:
            response = await self.services.transport.send(lease.endpoint, self._request(body))
            self.note_time()
            await self.relay.answer(response, renamer(lease.served or lease.alias, self.name))
        finally:
            if response is not None:
                await response.aclose()

    def _record(self, plan: Plan, body: bytes) -> None:
        assert self.services.recorder is not None  # noqa: S101 - the caller looked
        recording = self.services.recorder.begin(plan.key, self.name, self.scope["path"], body)
        recording.user_agent = self.user_agent[:_MAX_USER_AGENT]
        recording.request_id = self.request_id
        self.relay.recording = recording

    def _request(self, body: bytes) -> UpstreamRequest:
        headers = [(b"host", b"localhost")]
        headers += [(key, value) for key, value in self.scope["headers"] if key in _FORWARDED]
        query = self.scope["query_string"].decode("latin-1")
        path = f"{self.route.upstream}?{query}" if query else self.route.upstream
        return UpstreamRequest("POST", path, headers, body)


async def _disconnected(receive: Receive) -> object:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message
