"""The hot path: from a request's bytes to an engine's bytes.

The body is read once and decoded once, for the fields named here alone; what goes to the engine and
what comes back is not touched. Nothing here looks at the disk, and nothing runs per chunk that
depends on what the chunk says, but for one search for an event's end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import attrs
import msgspec
from starlette.types import Message, Receive, Scope, Send

from dmr_adapters.http.asgi import ClientGoneError, header, read_body
from dmr_adapters.http.errors import (
    error_response,
    is_stock_cli,
    message_of,
    not_found_text,
    sse_error,
    status_of,
)
from dmr_adapters.http.model_name import Rename, renamer
from dmr_adapters.http.services import Services
from dmr_core.domain.engine import EngineMode
from dmr_core.errors import (
    BackendNotFoundError,
    BodyTooLargeError,
    DmrError,
    InvalidRequestError,
    ModelNotFoundError,
    ShuttingDownError,
    UpstreamError,
)
from dmr_core.ports.transport import UpstreamRequest, UpstreamResponse
from dmr_core.services.inference import Plan
from dmr_core.services.scheduling.lease import Lease

__all__ = ["InferenceApp", "InferenceRoute", "match_inference"]

_ROUTES: Final = {
    "/v1/chat/completions": EngineMode.COMPLETION,
    "/v1/completions": EngineMode.COMPLETION,
    "/v1/messages": EngineMode.COMPLETION,
    "/v1/messages/count_tokens": EngineMode.COMPLETION,
    "/v1/embeddings": EngineMode.EMBEDDING,
    "/v1/images/generations": EngineMode.IMAGE_GENERATION,
    "/rerank": EngineMode.RERANKING,
    "/score": EngineMode.RERANKING,
}
_FORWARDED: Final = (b"content-type", b"accept")
_RETURNED: Final = (b"content-type", b"cache-control", b"x-accel-buffering")
_WHOLE: Final = 256 * 1024
_MAX_HELD: Final = 256 * 1024
_MAX_RENAMED: Final = 256 * 1024 * 1024
_DEATH_WAIT: Final = 0.5
_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n")
_SEND_TIMEOUT: Final = 600.0
_LAST_WORD: Final = 5.0


class _Body(msgspec.Struct):
    """The fields of a request that dmr itself needs."""

    model: str | None = None
    stream: bool | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode


@attrs.frozen
class InferenceRoute:
    """What a path asks for: ``backend`` as named in it, the engine's mode, and the engine's own path."""

    backend: str | None
    mode: EngineMode
    upstream: str


def match_inference(path: str) -> InferenceRoute | None:
    """The inference route of a path: ``/v1/…``, ``/engines/v1/…`` or ``/engines/{backend}/v1/…``, else ``None``."""
    mode = _ROUTES.get(path)
    if mode is not None:
        return InferenceRoute(None, mode, path)
    if not path.startswith("/engines/"):
        return None
    rest = path[8:]
    mode = _ROUTES.get(rest)
    if mode is not None:
        return InferenceRoute(None, mode, rest)
    backend, slash, tail = rest[1:].partition("/")
    mode = _ROUTES.get(slash + tail)
    return InferenceRoute(backend, mode, slash + tail) if mode is not None else None


class InferenceApp:
    """Answers inference requests. Pure ASGI; dispatched before any router."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._limit = services.settings.max_body
        self._routes: dict[str, InferenceRoute] = {}

    def route(self, path: str) -> InferenceRoute | None:
        """As :func:`match_inference`, remembering the few paths there are."""
        found = self._routes.get(path)
        if found is None:
            found = match_inference(path)
            if found is not None and len(self._routes) < 256:
                self._routes[path] = found
        return found

    async def answer(self, route: InferenceRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        started = self._services.clock.monotonic()
        exchange = _Exchange(self._services, route, scope, send)
        try:
            try:
                body = await read_body(receive, self._limit)
                plan = await self._plan(route, body, exchange)
                await exchange.run(plan, body, receive)
            except ClientGoneError:
                return
            except Exception as exc:
                await self._refuse(exc, exchange, scope, receive, send)
        finally:
            if exchange.plan is not None:
                key = exchange.plan.key
                self._services.metrics.request(
                    backend=key.backend,
                    mode=key.mode.value,
                    status=exchange.status,
                    seconds=self._services.clock.monotonic() - started,
                )

    async def _plan(self, route: InferenceRoute, body: bytes, exchange: _Exchange) -> Plan:
        if route.backend is not None:
            self._services.backends.get(route.backend)
        try:
            decoded = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise InvalidRequestError(f"invalid request: {exc}") from exc
        if not decoded.model:
            raise InvalidRequestError("model is required", param="model")
        exchange.name = decoded.model
        try:
            return self._services.inference.plan(decoded.model, route.mode, route.backend)
        except ModelNotFoundError:
            # Another process may have put it into the store since we looked.
            await self._services.store.refresh()
            return self._services.inference.plan(decoded.model, route.mode, route.backend)

    async def _refuse(self, error: Exception, exchange: _Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        stock = is_stock_cli(header(scope, b"user-agent"))
        if exchange.started:
            await exchange.break_off(error)
            return
        exchange.status = status_of(error)
        response = error_response(error, openai=not stock, message=_wire_text(error, exchange))
        if stock and response.status_code == 503 and not isinstance(error, ShuttingDownError):
            response.status_code = exchange.status = 429  # to that CLI any 503 says that the service is not running
        await response(scope, receive, send)


@attrs.define(eq=False)
class _Exchange:
    """One request and its answer."""

    services: Services
    route: InferenceRoute
    scope: Scope
    send: Send
    name: str = ""
    plan: Plan | None = None
    leased: bool = False
    started: bool = False
    status: int = 499
    streaming: bool = False

    async def run(self, plan: Plan, body: bytes, receive: Receive) -> None:
        """Lease, send, relay; ends early when the client does."""
        self.plan = plan
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        gone = False

        def client_left(_watch: asyncio.Task[object]) -> None:
            nonlocal gone
            if not _watch.cancelled():
                gone = True
                task.cancel()

        watch = asyncio.ensure_future(_disconnected(receive))
        watch.add_done_callback(client_left)
        try:
            await self._serve(plan, body)
        except asyncio.CancelledError:
            if not gone or task.uncancel():
                raise
        finally:
            watch.remove_done_callback(client_left)
            watch.cancel()

    async def _serve(self, plan: Plan, body: bytes) -> None:
        lease = await self.services.inference.lease(plan)
        self.leased = True
        with lease:
            if header(self.scope, b"x-preload-only") == "true":
                await self._start(200, [(b"content-length", b"0")])
                await self.send({"type": "http.response.body", "body": b""})
                return
            response: UpstreamResponse | None = None
            try:
                response = await self.services.transport.send(lease.endpoint, self._request(body))
                await self._relay(response, lease)
            except UpstreamError as exc:
                raise await _explain(lease, exc) from exc
            finally:
                if response is not None:
                    await response.aclose()

    def _request(self, body: bytes) -> UpstreamRequest:
        headers = [(b"host", b"localhost")]
        headers += [(key, value) for key, value in self.scope["headers"] if key in _FORWARDED]
        query = self.scope["query_string"].decode("latin-1")
        path = f"{self.route.upstream}?{query}" if query else self.route.upstream
        return UpstreamRequest("POST", path, headers, body)

    async def _relay(self, response: UpstreamResponse, lease: Lease) -> None:
        headers, length = [], -1
        for key, value in response.headers:
            if key in _RETURNED:
                headers.append((key, value))
                self.streaming = self.streaming or (key == b"content-type" and value.startswith(b"text/event-stream"))
            elif key == b"content-length":
                length = int(value)
        rename = renamer(lease.alias, self.name)
        if self.streaming:
            await self._start(response.status, headers)
            await self._relay_events(response, rename)
        elif rename is not None or 0 <= length <= _WHOLE:
            body = await _read_all(response)
            content = rename(body) if rename is not None else body
            await self._start(response.status, [*headers, (b"content-length", b"%d" % len(content))])
            await self._write({"type": "http.response.body", "body": content})
        else:
            if length >= 0:
                headers.append((b"content-length", b"%d" % length))
            await self._start(response.status, headers)
            while chunk := await response.read():
                await self._write({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._write({"type": "http.response.body", "body": b""})

    async def _relay_events(self, response: UpstreamResponse, rename: Rename | None) -> None:
        """Pass whole events on, so that a stream that breaks can still end with one of ours."""
        held = b""
        while chunk := await response.read():
            if held:
                chunk, held = held + chunk, b""
            if not chunk.endswith(_EVENT_ENDS):
                end = max(chunk.rfind(mark) + len(mark) if mark in chunk else 0 for mark in _EVENT_ENDS)
                if end:
                    chunk, held = chunk[:end], chunk[end:]
                elif len(chunk) < _MAX_HELD:
                    held = chunk
                    continue
            if rename is not None:
                chunk = rename(chunk)
            await self._write({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._write({"type": "http.response.body", "body": rename(held) if rename is not None else held})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started, self.status = True, status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, message: Message) -> None:
        """Send, but not for ever: a client that reads nothing must not keep an engine."""
        async with asyncio.timeout(_SEND_TIMEOUT):
            await self.send(message)

    async def break_off(self, error: Exception) -> None:
        """End an answer that has begun: a stream with a typed event, anything else by closing the connection."""
        self.status = status_of(error)
        if not self.streaming or isinstance(error, TimeoutError):  # who reads nothing reads no error either
            raise error
        async with asyncio.timeout(_LAST_WORD):
            await self.send({"type": "http.response.body", "body": sse_error(error)})


async def _disconnected(receive: Receive) -> object:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message


async def _read_all(response: UpstreamResponse) -> bytes:
    parts, size = [], 0
    while chunk := await response.read():
        parts.append(chunk)
        size += len(chunk)
        if size > _MAX_RENAMED:
            raise UpstreamError(f"the engine's answer is longer than {_MAX_RENAMED} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _explain(lease: Lease, error: UpstreamError) -> DmrError:
    """The engine's own end, when that is why the connection broke."""
    with contextlib.suppress(Exception):
        ended = await lease.failure(_DEATH_WAIT)
        if ended is not None:
            return UpstreamError(f"the engine stopped while answering: {ended.summary}")
    return error


def _wire_text(error: Exception, exchange: _Exchange) -> str | None:
    """The texts clients of the reference know; ``None`` for the error's own."""
    if isinstance(error, ModelNotFoundError):
        return not_found_text(exchange.name)
    if isinstance(error, BackendNotFoundError):
        return "backend not found"
    if isinstance(error, BodyTooLargeError):
        return "request too large"
    if exchange.plan is not None and not exchange.leased and status_of(error) in (502, 504, 507):
        return f"unable to load runner: {message_of(error)}"
    return None
