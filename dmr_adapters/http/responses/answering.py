"""Answers to who asked: as a stream of events, or as one document."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dmr_adapters.http.errors import error_response
from dmr_adapters.http.responses.assembly import Event
from dmr_adapters.http.responses.call import Headers, encode
from dmr_adapters.http.responses.fidelity import told
from dmr_adapters.http.responses.turn import Turn, TurnSink, event_bytes
from dmr_core.errors import DmrError, UpstreamError

__all__ = ["StreamedAnswer", "whole_answer"]

_STREAM: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


async def whole_answer(turn: Turn, receive: Receive) -> Response:
    """The response, once it is complete.

    Raises:
        InvalidRequestError: it is too much to ask for at once.
        UpstreamError: the engine failed.
    """
    sink = TurnSink(turn)
    refused = await turn.ask(receive, sink)
    if refused is not None:
        return refused.response()
    if not turn.assembly.ended:
        return Response(status_code=499)  # nobody is there any more
    document = turn.assembly.document
    if document["status"] == "failed":
        raise UpstreamError(document["error"]["message"])
    response = Response(encode(document) + b"\n", media_type="application/json")
    response.raw_headers.extend(sink.headers)
    return response


class StreamedAnswer(Response):
    """Asks, and sends each event as it comes; the engine waits for a client that reads slowly."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        sink = _ClientSink(self._turn, send)
        try:
            refused = await self._turn.ask(receive, sink)
        except DmrError as exc:
            if sink.begun:
                raise
            await error_response(exc, openai=True)(scope, receive, send)
            return
        finally:
            if sink.begun and not self._turn.assembly.ended:
                self._turn.assembly.cancel()  # the client left; it knows the name, and may ask what became of it
                await self._turn.keep(self._turn.assembly.document, finished=True)
        if refused is not None:
            await refused.response()(scope, receive, send)
        elif sink.begun:
            await send({"type": "http.response.body", "body": b""})


class _ClientSink(TurnSink):
    def __init__(self, turn: Turn, send: Send) -> None:
        super().__init__(turn)
        self._send = send
        self.begun = False

    async def begin(self, headers: Headers) -> None:
        self.begun = True
        whole = [*_STREAM, *told(headers, self.turn.fidelity)]
        await self._send({"type": "http.response.start", "status": 200, "headers": whole})
        await super().begin(headers)

    async def tell(self, events: list[Event]) -> None:
        if events:
            await self._send({"type": "http.response.body", "body": event_bytes(events), "more_body": True})
