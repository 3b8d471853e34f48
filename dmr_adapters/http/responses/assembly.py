"""From chunks of a chat completion to the events of a response (OpenAI API reference, "Streaming events").

Pure: what an engine says goes in, events come out, and at any time there is a response object that agrees with those that
came out. Engines are not trusted: what is not as it should be is passed over where something can be made of the rest.

Of a response's items one that holds text is open at a time; calls of functions are open until the end, since an engine may
write several at once. Whoever was announced is finished, in a response that completes or is cut short.
"""

from __future__ import annotations

import json
from typing import Any, Final

from dmr_adapters.http.responses.document import logprobs_of, usage_of
from dmr_adapters.http.responses.output import CallItem, OpenItem, TextItem
from dmr_adapters.http.responses.upstream import DONE, error_of
from dmr_core.errors import UpstreamError

__all__ = ["Assembly", "Event"]

Event = dict[str, Any]
_MAX_OUTPUT: Final = 64 * 1024 * 1024
"""Characters of one response; more than any context holds."""
_MAX_CALLS: Final = 256
_CUT_SHORT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_TEXTS: Final = (
    ("reasoning_content", "reasoning_text"),
    ("reasoning", "reasoning_text"),
    ("content", "output_text"),
    ("refusal", "refusal"),
)


class Assembly:
    """One response in the making. ``document`` is the response object, complete once ``ended``."""

    def __init__(self, document: dict[str, Any], *, logprobs: bool = False) -> None:
        self.document = document
        self.ended = False
        self._logprobs = logprobs
        self._sequence = 0
        self._items: list[OpenItem] = []
        self._text: TextItem | None = None
        self._calls: dict[int, CallItem] = {}
        self._reason: str | None = None
        self._done = False
        self._size = 0
        self._excess = ""

    def queue(self) -> list[Event]:
        """It waits for its turn."""
        self.document["status"] = "queued"
        return [self._lifecycle("created"), self._lifecycle("queued")]

    def begin(self) -> list[Event]:
        """The engine is at it."""
        known = self._sequence > 0
        self.document["status"] = "in_progress"
        return [*(() if known else (self._lifecycle("created"),)), self._lifecycle("in_progress")]

    def feed(self, chunk: object) -> list[Event]:
        """What a chunk brings.

        Raises:
            UpstreamError: it says that the engine failed, or there is more of it than can be.
        """
        if chunk is DONE:
            self._done = True
            return []
        if self._done or not isinstance(chunk, dict):
            return []
        if (error := error_of(chunk)) is not None:
            raise UpstreamError(error[0])
        self._check()
        if (usage := usage_of(chunk.get("usage"))) is not None:
            self.document["usage"] = usage
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            return []
        delta, events = choice.get("delta"), []
        if isinstance(delta, dict):
            events = self._delta(delta, choice.get("logprobs"))
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._reason = reason
        return events

    def finish(self) -> list[Event]:
        """The engine is done.

        Raises:
            UpstreamError: it stopped in the middle.
        """
        self._check()
        if not self._done and self._reason is None:
            raise UpstreamError("the engine's answer ended early")
        cut = _CUT_SHORT.get(self._reason or "")
        events: list[Event] = []
        if not self._items and cut is None:
            events += self._write("output_text", "", [])  # it had nothing to say, and said that
        status = "incomplete" if cut else "completed"
        events += self._close_text(status)
        for call in self._calls.values():
            events += self._numbered(call.close(status, self._announce(call)))
        self._settle(status)
        if cut:
            self.document["incomplete_details"] = {"reason": cut}
        return [*events, self._lifecycle(status)]

    def fail(self, message: str, code: str = "server_error") -> list[Event]:
        """Something went wrong; what was said until then stays."""
        self.document["error"] = {"code": code, "message": message}
        self._settle("failed")
        return [self._lifecycle("failed")]

    def cancel(self) -> None:
        """Nobody wants to hear more. There is no event for that: the stream ends."""
        self._settle("cancelled")

    def snapshot(self) -> dict[str, Any]:
        """The response as it is now, what is under way included."""
        return {**self.document, "output": [item.snapshot() for item in self._items if item.announced]}

    # --- inside

    def _settle(self, status: str) -> None:
        for item in self._items:
            item.leave("incomplete")
        self.document["output"] = [item.snapshot() for item in self._items if item.announced]
        self.document["status"] = status
        self.ended = True
        said = "".join(
            part["text"]
            for item in self.document["output"]
            if item["type"] == "message"
            for part in item["content"]
            if part["type"] == "output_text"
        )
        if said:
            self.document["output_text"] = said  # the reference's own; the official clients work it out themselves

    def _delta(self, delta: dict[str, Any], logprobs: object) -> list[Event]:
        events: list[Event] = []
        kinds = set()
        for field, kind in _TEXTS:
            text = delta.get(field)
            if isinstance(text, str) and text and kind not in kinds:
                kinds.add(kind)  # some engines write what they think under both names
                probabilities = self._probabilities(logprobs) if kind == "output_text" else []
                events += self._write(kind, text, probabilities)
        calls = delta.get("tool_calls")
        for fragment in calls if isinstance(calls, list) else ():
            if isinstance(fragment, dict):
                events += self._call(fragment)
        return events

    def _probabilities(self, given: object) -> list[Any]:
        return logprobs_of(given) if self._logprobs else []

    def _write(self, kind: str, text: str, logprobs: list[Any]) -> list[Event]:
        self._grow(len(text))
        events: list[Event] = []
        if self._text is None or not self._text.takes(kind):
            events = self._close_text("completed")
            self._text = TextItem(len(self._items), kind)
            self._items.append(self._text)
        return events + self._numbered(self._text.write(kind, text, logprobs))

    def _close_text(self, status: str) -> list[Event]:
        item, self._text = self._text, None
        return [] if item is None else self._numbered(item.close(status))

    def _call(self, fragment: dict[str, Any]) -> list[Event]:
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments, call_id = (
            value if isinstance(value, str) else ""
            for value in (function.get("name"), function.get("arguments"), fragment.get("id"))
        )
        if isinstance(function.get("arguments"), dict):  # Ollama's way
            arguments = _text_of(function["arguments"])
        key = self._key(fragment.get("index"), call_id)
        call, events = self._calls.get(key), self._close_text("completed")
        if call is None:
            if len(self._calls) >= _MAX_CALLS:
                self._excess = f"the engine called more than {_MAX_CALLS} functions"
                return events
            call = self._calls[key] = CallItem(call_id)
        self._grow(len(arguments) + len(name))
        call.add(name, arguments)
        if call.name:
            events += self._numbered(call.write(self._announce(call)))
        return events

    def _key(self, index: object, call_id: str) -> int:
        """Which call a fragment belongs to: by its index, which all fragments have; else by its ID; else the last."""
        if isinstance(index, int) and not isinstance(index, bool):
            return index
        for key, call in self._calls.items():
            if call_id and call.call_id == call_id:
                return key
        last = max(self._calls, default=-1)
        return last + 1 if call_id or not self._calls else last

    def _announce(self, call: CallItem) -> bool:
        """Give a call its place among the items, which is known when its name is; whether it is new there."""
        if call.announced:
            return False
        call.place(len(self._items))
        self._items.append(call)
        return True

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > _MAX_OUTPUT:
            self._excess = f"the engine's answer is longer than {_MAX_OUTPUT} characters"

    def _check(self) -> None:
        """Tell of too much before the next event is made: one that has its number must be sent."""
        if self._excess:
            raise UpstreamError(self._excess)

    def _lifecycle(self, name: str) -> Event:
        return self._numbered([{"type": f"response.{name}", "response": dict(self.document)}])[0]

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self._sequence
            self._sequence += 1
        return events


def _text_of(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)
