"""Asking the inference path for a chat completion, as a client would: leases, figures and records are its business."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final, Protocol

import attrs
import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from dmr_adapters.http.asgi import ClientGoneError
from dmr_adapters.http.errors import is_stock_cli, openai_type
from dmr_adapters.http.fidelity import DMR_STRICT
from dmr_adapters.http.inference.app import InferenceApp
from dmr_adapters.http.responses.fidelity import field_name
from dmr_adapters.http.responses.upstream import error_of, parse
from dmr_core.errors import InvalidRequestError, UpstreamError

__all__ = ["ChatCall", "Headers", "Refused", "Sink"]

Headers = list[tuple[bytes, bytes]]
_MAX_ERROR: Final = 1024 * 1024
_OWN: Final = frozenset({b"content-type", b"content-length", b"cache-control", b"x-accel-buffering"})
_SENT_ON: Final = frozenset({b"x-request-id", b"host", DMR_STRICT})


class Sink(Protocol):
    """Where an answer goes, piece by piece."""

    @abstractmethod
    async def begin(self, headers: Headers) -> None:
        """An engine answers."""

    @abstractmethod
    async def take(self, content: bytes, *, last: bool) -> bool:
        """Take a piece. ``False`` ends the request: nothing more is wanted."""


@attrs.frozen
class Refused:
    """An answer that is none: what an engine, or the way to it, had to object."""

    status: int
    headers: Headers
    body: bytes

    @property
    def error(self) -> tuple[str, dict[str, Any]]:
        """The message, and the other fields of the error."""
        try:
            found = error_of(parse(self.body))
        except UpstreamError:
            found = None
        return found or (self.body.decode(errors="replace").strip()[:4096] or "the engine failed", {})

    def response(self) -> Response:
        """The same in OpenAI's shape, whatever the engine's was."""
        message, fields = self.error
        code, param = fields.get("code"), fields.get("param")
        kind = fields.get("type")
        error = {
            "message": message,
            "type": kind if isinstance(kind, str) else openai_type(self.status),
            "code": code if isinstance(code, str) else None,
            "param": field_name(param) if isinstance(param, str) else None,
        }
        response = Response(orjson.dumps({"error": error}), self.status, media_type="application/json")
        response.raw_headers.extend(self.headers)
        return response


class ChatCall:
    """Asks for chat completions on behalf of one request. ``backend`` as named in its path."""

    def __init__(self, inference: InferenceApp, scope: Scope, backend: str | None, limit: int) -> None:
        self._inference = inference
        self._limit = limit
        path = f"/engines/{backend}/v1/chat/completions" if backend else "/v1/chat/completions"
        route = inference.route(path)
        assert route is not None  # noqa: S101 - it is one of theirs
        self._route = route
        headers = [(key, value) for key, value in scope["headers"] if key in _SENT_ON]
        agent = next((value for key, value in scope["headers"] if key == b"user-agent"), b"")
        if agent and not is_stock_cli(agent.decode("latin-1")):  # to whom errors would come as text
            headers.append((b"user-agent", agent))
        headers.append((b"content-type", b"application/json"))
        self._scope = {**scope, "method": "POST", "path": path, "query_string": b"", "headers": headers}

    async def ask(self, body: dict[str, Any], receive: Receive, sink: Sink) -> Refused | None:
        """Ask, and hand the answer to ``sink``, unless there is none. Ends early where ``receive`` says so.

        Raises:
            InvalidRequestError: it is too much to ask for at once.
            TimeoutError: whoever is behind the sink does not read.
        """
        content = encode(body)
        if len(content) > self._limit:
            raise InvalidRequestError(
                f"the conversation takes {len(content)} bytes with everything before this turn; {self._limit} are allowed "
                "(DMR_MAX_BODY): begin a new one",
                param="input",
            )
        read, status, headers, refusal = False, 0, Headers(), bytearray()

        async def given() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(key, value) for key, value in message.get("headers", ()) if key not in _OWN]
                if status == 200:
                    await sink.begin(headers)
                return
            piece = message.get("body", b"")
            if status != 200:
                refusal.extend(piece[: _MAX_ERROR - len(refusal)])
            elif not await sink.take(piece, last=not message.get("more_body", False)):
                raise ClientGoneError  # the inference path's word for: nobody listens any more

        await self._inference.answer(self._route, self._scope, given, send)
        return Refused(status, headers, bytes(refusal)) if status not in (0, 200) else None


def encode(value: object) -> bytes:
    """JSON of something a client sent.

    Raises:
        InvalidRequestError: it holds a number beyond 64 bits, or nests too deeply.
    """
    try:
        return orjson.dumps(value)
    except TypeError as exc:
        raise InvalidRequestError(f"invalid request: {exc}") from exc
