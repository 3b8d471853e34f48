"""From the events of a streamed chat completion to those of a streamed message. Pure.

The order is Anthropic's: ``message_start``, then for each block ``content_block_start``, ``content_block_delta``… and
``content_block_stop``, one block at a time and numbered, then ``message_delta`` with why it stopped and how many tokens it
was, then ``message_stop``. ``ping`` may come anywhere between; ``error`` ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs
import orjson

from dmr_adapters.http.anthropic.answer import message_id, stop_reason, tool_id, usage_of
from dmr_core.errors import UpstreamError

__all__ = ["PING", "EventReader", "MessageEvents"]

Json = dict[str, Any]

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_MAX_EVENT: Final = 16 * 1024 * 1024
_DONE: Final = b"[DONE]"


class EventReader:
    """Cuts a byte stream into the data of its events (WHATWG HTML, section 9.2); comments and names are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Data of the events that are complete with ``chunk``.

        Raises:
            UpstreamError: an event is longer than 16 MiB.
        """
        content = self._rest + chunk
        # A carriage return at the end may be half of a line's end.
        held = b"\r" if content.endswith(b"\r") else b""
        lines = content.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        if len(self._rest) + sum(map(len, self._data)) > _MAX_EVENT:
            raise UpstreamError(f"an event of the engine's is longer than {_MAX_EVENT} bytes")
        for line in lines:
            if not line:
                if self._data:
                    data, self._data = b"\n".join(self._data), []
                    yield data
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))


@attrs.define(eq=False)
class _Call:
    """A call of a tool, as far as it has come: fragments say which by ``index``, the first alone has name and ID."""

    id: str = ""
    name: str = ""
    told: list[str] = attrs.field(factory=list)
    waiting: list[str] = attrs.field(factory=list)
    ended: bool = False

    def complete(self) -> bool:
        """Whether nothing can be missing from its arguments."""
        try:
            orjson.loads("".join(self.told))
        except (ValueError, RecursionError):
            return False
        return True


@attrs.define(eq=False)
class MessageEvents:
    """Translates one stream. ``model`` is the name the client used.

    Call :meth:`begin` once, :meth:`chunk` for the data of each of the engine's events, :meth:`end` when there are no more.
    ``finished`` says that nothing follows.
    """

    model: str
    finished: bool = False
    _index: int = -1
    _open: str = ""
    _calls: dict[int, _Call] = attrs.field(factory=dict)
    _current: _Call | None = None
    _held: list[tuple[str, Json]] = attrs.field(factory=list)
    _reason: tuple[str, str | None] | None = None
    _usage: object = None

    def begin(self) -> bytes:
        """The first event, and a ping: the engine may take its time over the prompt."""
        message: Json = {
            "id": message_id(),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(None),
        }
        return _event("message_start", message=message) + PING

    def chunk(self, data: bytes) -> bytes:
        """Events for one event of the engine's; mostly one.

        Raises:
            UpstreamError: the engine says that it failed, or what it says is no chunk of a chat completion.
        """
        if self.finished or data == _DONE:
            return b""
        try:
            value = orjson.loads(data)
        except (ValueError, RecursionError) as exc:
            raise UpstreamError(f"an event of the engine's is not JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise UpstreamError("an event of the engine's is no object")
        if value.get("error"):
            raise UpstreamError(_failure(value["error"]))
        if isinstance(value.get("usage"), dict):
            self._usage = value["usage"]
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or choice.get("index") not in (0, None):
            return b""
        delta = choice.get("delta")
        events = b"".join(self._delta(delta)) if isinstance(delta, dict) else b""
        if choice.get("finish_reason"):
            self._reason = stop_reason(choice, called=bool(self._calls))
        return events

    def end(self) -> bytes:
        """The last events.

        Raises:
            UpstreamError: the engine broke off before it said why it stopped.
        """
        if self.finished:
            return b""
        if self._reason is None:
            raise UpstreamError("the engine's answer ended before it was complete")
        self.finished = True
        events = list(self._flush())
        for kept in self._held:
            events.extend(self._say(*kept))
        events.extend(self._stop())
        reason, sequence = self._reason
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        events.append(_event("message_delta", delta=delta, usage=usage_of(self._usage)))
        events.append(_event("message_stop"))
        return b"".join(events)

    def _delta(self, delta: Json) -> Iterator[bytes]:
        thoughts = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thoughts, str) and thoughts:
            yield from self._piece("thinking", {"type": "thinking_delta", "thinking": thoughts})
        text = delta.get("content")
        if isinstance(text, str) and text:
            yield from self._piece("text", {"type": "text_delta", "text": text})
        fragments = delta.get("tool_calls")
        for fragment in fragments if isinstance(fragments, list) else ():
            if isinstance(fragment, dict):
                yield from self._fragment(fragment)

    def _piece(self, kind: str, delta: Json) -> Iterator[bytes]:
        if self._current is not None and not self._current.complete():
            self._held.append((kind, delta))  # in the middle of a call; its block must not be cut
            return
        held, self._held = self._held, []
        for kept in held:
            yield from self._say(*kept)
        yield from self._say(kind, delta)

    def _say(self, kind: str, delta: Json) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._stop()
            empty = {"text": ""} if kind == "text" else {"thinking": "", "signature": ""}
            yield from self._start(kind, empty)
        yield _event("content_block_delta", index=self._index, delta=delta)

    def _fragment(self, fragment: Json) -> Iterator[bytes]:
        index = fragment.get("index")
        call = self._calls.setdefault(index if isinstance(index, int) else 0, _Call())
        if isinstance(fragment.get("id"), str):
            call.id = call.id or fragment["id"]
        function = fragment.get("function")
        if isinstance(function, dict):
            if isinstance(function.get("name"), str):
                call.name = call.name or function["name"]
            if isinstance(function.get("arguments"), str) and function["arguments"] and not call.ended:
                call.waiting.append(function["arguments"])
        # Another call is begun once the one under way cannot go on; until then its fragments are kept.
        if self._current is not None and call is not self._current and not self._current.complete():
            return
        if call.name and not call.ended:
            yield from self._tell(call)

    def _tell(self, call: _Call) -> Iterator[bytes]:
        if self._current is not call:
            yield from self._stop()
            call.id = call.id or tool_id()
            yield from self._start("tool_use", {"id": call.id, "name": call.name, "input": {}})
            self._current = call
        for piece in call.waiting:
            call.told.append(piece)
            delta = {"type": "input_json_delta", "partial_json": piece}
            yield _event("content_block_delta", index=self._index, delta=delta)
        call.waiting.clear()

    def _flush(self) -> Iterator[bytes]:
        """Tell what was kept of other calls."""
        for index in sorted(self._calls):
            call = self._calls[index]
            if not call.ended and call is not self._current:
                if not call.name:
                    raise UpstreamError("the engine calls a tool and does not say which")
                yield from self._tell(call)

    def _start(self, kind: str, content: Json) -> Iterator[bytes]:
        self._index += 1
        self._open = kind
        yield _event("content_block_start", index=self._index, content_block={"type": kind, **content})

    def _stop(self) -> Iterator[bytes]:
        if not self._open:
            return
        if self._open == "thinking":  # clients keep it and send it back; nobody here checks it
            delta = {"type": "signature_delta", "signature": ""}
            yield _event("content_block_delta", index=self._index, delta=delta)
        yield _event("content_block_stop", index=self._index)
        self._open = ""
        if self._current is not None:
            self._current.ended = True
            self._current = None


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _failure(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else "the engine failed while answering"
