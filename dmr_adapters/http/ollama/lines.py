"""An answer in Ollama's words: one JSON object to a line, the last of them with the figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import msgspec
import orjson

from dmr_adapters.http.ollama.pieces import Piece, Usage
from dmr_core.errors import UpstreamError

__all__ = ["AnswerLines", "Kind", "Times", "figures", "rfc3339"]

Json = dict[str, Any]
_NANO: Final = 1_000_000_000
_MILLI: Final = 1_000_000


@attrs.frozen
class Kind:
    """Which of the two forms an answer has: a ``message`` (chat), or a ``response`` (generate)."""

    chat: bool

    def said(self, text: str, thinking: str = "", calls: list[Json] | None = None) -> Json:
        """The part of a line that says something."""
        if not self.chat:
            return {"response": text, **({"thinking": thinking} if thinking else {})}
        message: Json = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}


@attrs.define
class Times:
    """Seconds: the whole request, loading the model, and the two halves of the engine's work as seen from outside."""

    total: float = 0.0
    load: float = 0.0
    prompt: float = 0.0
    answer: float = 0.0


def figures(times: Times, usage: Usage | None) -> Json:
    """The counts and durations (nanoseconds) at the end of an answer. The engine's own times count where it tells them."""
    known = usage or Usage()
    prompt = times.prompt * _NANO if known.prompt_ms is None else known.prompt_ms * _MILLI
    answer = times.answer * _NANO if known.answer_ms is None else known.answer_ms * _MILLI
    found: Json = {"total_duration": _whole(times.total * _NANO), "load_duration": _whole(times.load * _NANO)}
    if known.prompt is not None:
        found["prompt_eval_count"] = known.prompt
    found["prompt_eval_duration"] = _whole(prompt)
    if known.answer is not None:
        found["eval_count"] = known.answer
    found["eval_duration"] = _whole(answer)
    return found


def rfc3339(seconds: float) -> str:
    """A moment by the clock, in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class AnswerLines:
    """The lines of one answer under the name ``model``. ``thinks`` is ``False`` where thoughts were not wanted.

    ``reason`` is Ollama's for the end of the answer; ``ended`` says that the engine told one.
    """

    def __init__(self, kind: Kind, model: str, *, thinks: bool = True) -> None:
        self._kind = kind
        self._model = model
        self._thinks = thinks
        self._calls: dict[int, Json] = {}
        self._sent = 0
        self._said: list[str] = []
        self.reason = "stop"
        self.ended = False

    @property
    def text(self) -> str:
        """Everything said so far, thoughts aside."""
        return "".join(self._said)

    def feed(self, piece: Piece, now: float) -> Iterator[bytes]:
        """Lines for a part of a stream that came at ``now``, seconds by the clock.

        Raises:
            UpstreamError: a call's arguments are no JSON object.
        """
        self._note(piece)
        thinking = piece.thinking if self._thinks else ""
        if piece.text:
            self._said.append(piece.text)
        for fragment in piece.calls:
            self._collect(fragment)
        calls = self._complete(everything=piece.reason is not None)
        if piece.text or thinking or calls or piece.logprobs:
            yield self._line(piece, thinking, calls, now)

    def end(self, now: float, closing: Mapping[str, Any]) -> bytes:
        """The last line of a stream.

        Raises:
            UpstreamError: a call's arguments are no JSON object.
        """
        calls = self._complete(everything=True)
        return self._encoded(self._kind.said("", calls=calls), now, closing)

    def whole(self, piece: Piece, now: float, closing: Mapping[str, Any]) -> bytes:
        """An answer that is not streamed.

        Raises:
            UpstreamError: a call's arguments are no JSON object.
        """
        self._note(piece)
        self._said.append(piece.text)
        for fragment in piece.calls:
            self._collect(fragment)
        thinking = piece.thinking if self._thinks else ""
        said = self._kind.said(piece.text, thinking, self._complete(everything=True))
        more = {"logprobs": list(piece.logprobs)} if piece.logprobs else {}
        return self._encoded({**said, **more}, now, closing)

    def _note(self, piece: Piece) -> None:
        if piece.reason is not None:
            self.ended = True
            self.reason = "length" if piece.reason == "length" else "stop"

    def _line(self, piece: Piece, thinking: str, calls: list[Json], now: float) -> bytes:
        document: Json = {"model": self._model, "created_at": rfc3339(now)}
        document |= self._kind.said(piece.text, thinking, calls)
        document["done"] = False
        if piece.logprobs:
            document["logprobs"] = list(piece.logprobs)
        return orjson.dumps(document) + b"\n"

    def _encoded(self, said: Json, now: float, closing: Mapping[str, Any]) -> bytes:
        document = {"model": self._model, "created_at": rfc3339(now), **said, "done": True, "done_reason": self.reason}
        return orjson.dumps({**document, **closing}) + b"\n"

    def _collect(self, fragment: Json) -> None:
        index = fragment.get("index")
        index = index if isinstance(index, int) else len(self._calls)
        call = self._calls.setdefault(index, {"id": None, "name": "", "arguments": ""})
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        if isinstance(fragment.get("id"), str):
            call["id"] = call["id"] or fragment["id"]
        if isinstance(function.get("name"), str):
            call["name"] += function["name"]
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            call["arguments"] = orjson.dumps(arguments).decode()
        elif isinstance(arguments, str):
            call["arguments"] += arguments

    def _complete(self, *, everything: bool) -> list[Json]:
        """Calls that are whole and were not sent: Ollama's clients take none in fragments. A call is whole when the next begins."""
        ready = list(self._calls.items())[self._sent :]
        if not everything and ready:
            ready.pop()
        if everything and self.reason == "length" and ready and _object(ready[-1][1]["arguments"]) is None:
            self._sent += 1
            ready.pop()  # it was cut in the middle, as ``done_reason`` says
        self._sent += len(ready)
        return [_call(number, call) for number, call in ready]


def _call(number: int, call: Json) -> Json:
    arguments = _object(call["arguments"] or "{}")
    if arguments is None:
        raise UpstreamError(f"the model called {call['name'][:100]!r} with arguments that are no JSON object")
    made = {"function": {"index": number, "name": call["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call["id"] else made


def _object(text: str) -> Json | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _whole(value: float) -> int:
    return max(0, int(value)) if math.isfinite(value) else 0
