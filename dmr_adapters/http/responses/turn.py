"""One turn: a request that was understood, the chat it is asked as, and what is kept of it."""

from __future__ import annotations

import logging
from typing import Any, Final

import attrs
import orjson
from starlette.types import Receive

from dmr_adapters.http.fidelity import Fidelity
from dmr_adapters.http.responses.assembly import Assembly, Event
from dmr_adapters.http.responses.call import ChatCall, Headers, Refused, Sink, encode
from dmr_adapters.http.responses.conversation import shortened
from dmr_adapters.http.responses.fidelity import told
from dmr_adapters.http.responses.request import CreateRequest
from dmr_adapters.http.responses.upstream import ChunkReader, chunk_of
from dmr_core.errors import DmrError, UpstreamError
from dmr_core.ports.clock import Clock
from dmr_core.ports.response_store import KeptResponse, ResponseStore

__all__ = ["Turn", "TurnSink", "event_bytes"]

_log: Final = logging.getLogger("dmr.responses")
_TOO_LONG: Final = frozenset({"exceed_context_size_error", "context_length_exceeded"})
_ATTEMPTS: Final = 8
_MARGIN: Final = 0.9
"""Of the share that should fit: tokens are not spread evenly, and the answer needs room as well."""


def event_bytes(events: list[Event]) -> bytes:
    """Events as they are sent."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event)) for event in events)


@attrs.define(eq=False, kw_only=True)
class Turn:
    """What one request asks for. ``items`` are its own input; ``body`` the chat completion, with all that came before."""

    request: CreateRequest
    body: dict[str, Any]
    items: list[dict[str, Any]]
    assembly: Assembly
    call: ChatCall
    store: ResponseStore | None
    clock: Clock
    fidelity: Fidelity
    settled: bool = False
    """Whether it is in the store as it ended."""

    @property
    def id(self) -> str:
        """The response's name."""
        return str(self.assembly.document["id"])

    async def ask(self, receive: Receive, sink: TurnSink) -> Refused | None:
        """Ask the engine; with ``truncation: auto`` again with less, where the conversation does not fit the context.

        Raises:
            InvalidRequestError: it is too much to ask for at once.
        """
        refused = await self.call.ask(self.body, receive, sink)
        for _ in range(_ATTEMPTS if self.request.truncation == "auto" else 0):
            share = _share_that_fits(refused) if refused is not None else None
            messages = shortened(self.body["messages"], share) if share is not None else None
            if messages is None:
                break
            self.body["messages"] = messages
            refused = await self.call.ask(self.body, receive, sink)
        return refused

    async def keep(self, document: dict[str, Any], *, finished: bool, events: bytes = b"") -> bool:
        """Put it into the store, unless it is not to be there; whether it is there as far as anybody wanted."""
        if self.store is None:
            return True
        try:
            await self.store.keep(
                KeptResponse(
                    id=self.id,
                    previous_id=self.request.previous_response_id,
                    document=orjson.dumps(document),
                    input=orjson.dumps(self.items),
                    events=events,
                    finished=finished,
                    written=self.clock.time(),
                )
            )
        except DmrError as exc:
            _log.warning("response %s is not stored: %s", self.id, exc)
            return False
        self.settled = self.settled or finished
        return True

    def completed_at(self) -> None:
        """Note when it was completed."""
        if self.assembly.document["status"] == "completed":
            self.assembly.document["completed_at"] = int(self.clock.time())


class TurnSink(Sink):
    """Makes a response of what an engine answers. Subclasses say where its events go."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.headers: Headers = []
        self._reader = ChunkReader() if turn.body.get("stream") else None
        self._whole: list[bytes] = []

    async def tell(self, events: list[Event]) -> None:
        """Pass events on. The last ones are those with which it ended."""

    async def begin(self, headers: Headers) -> None:
        """See :class:`Sink`."""
        self.headers = told(headers, self.turn.fidelity)
        await self.tell(self.turn.assembly.begin())

    async def take(self, content: bytes, *, last: bool) -> bool:
        """See :class:`Sink`."""
        assembly = self.turn.assembly
        if assembly.ended:
            return False
        events: list[Event] = []
        over = last
        try:
            for chunk in self._chunks(content, last=last):
                events += assembly.feed(chunk)
            if last:
                told, events = events, []
                await self.tell(told)
                events = assembly.finish()
                self.turn.completed_at()
        except UpstreamError as exc:
            events += assembly.fail(exc.message)
            over = True
        if over:
            await self._settle(events)
        if events:
            await self.tell(events)
        return not over or last

    async def _settle(self, events: list[Event]) -> None:
        """Before anybody hears that it ended, it is where they may ask for it."""
        assembly = self.turn.assembly
        final = events[-1]["response"]
        if assembly.document["status"] == "failed" and self._reader is None:
            return  # the client gets an error, and never hears the response's name
        final["completed_at"] = assembly.document["completed_at"]
        if not await self.turn.keep(assembly.document, finished=True, events=self.replay(events)):
            assembly.document["store"] = final["store"] = False

    def replay(self, last: list[Event]) -> bytes:
        """The stream, with its ``last`` events, for those who ask for it later."""
        return b""

    def _chunks(self, content: bytes, *, last: bool) -> list[object]:
        if self._reader is not None:
            return self._reader.feed(content)
        self._whole.append(content)
        return [chunk_of(b"".join(self._whole))] if last else []


def _share_that_fits(refused: Refused) -> float | None:
    """How much of a conversation that is too long an engine could take; ``None`` if that is not what it said."""
    _, fields = refused.error
    if refused.status != 400 or not {fields.get("type"), fields.get("code")} & _TOO_LONG:
        return None
    read, context = fields.get("n_prompt_tokens"), fields.get("n_ctx")
    if isinstance(read, int) and isinstance(context, int) and read > 0:
        return max(0.0, min(_MARGIN, context / read * _MARGIN))
    return 0.75
