"""Items of a response in the making: text in parts, and calls of functions. They say which events announce what they do."""

from __future__ import annotations

from typing import Any, Final, Protocol

import attrs

from dmr_adapters.http.responses.names import new_id

__all__ = ["CallItem", "OpenItem", "TextItem"]

Event = dict[str, Any]


class OpenItem(Protocol):
    """An item that is being written."""

    announced: bool

    def snapshot(self) -> dict[str, Any]:
        """The item as it is now."""

    def leave(self, status: str) -> None:
        """Say how it ended, unless that was said."""


@attrs.define(eq=False)
class _Part:
    """A part of an item's content. ``kind`` is its type, and the middle of its events' names."""

    kind: str
    texts: list[str] = attrs.field(factory=list)
    logprobs: list[Any] = attrs.field(factory=list)

    @property
    def field(self) -> str:
        return "refusal" if self.kind == "refusal" else "text"

    def value(self) -> dict[str, Any]:
        if len(self.texts) > 1:
            self.texts = ["".join(self.texts)]
        made: dict[str, Any] = {"type": self.kind, self.field: self.texts[0] if self.texts else ""}
        if self.kind == "output_text":
            made |= {"annotations": [], "logprobs": list(self.logprobs)}
        return made


class TextItem(OpenItem):
    """A message, or what the model thought. Announced by its first text."""

    _ITEMS: Final[dict[str, tuple[str, Event]]] = {
        "message": ("msg", {"type": "message", "role": "assistant"}),
        "reasoning": ("rs", {"type": "reasoning", "summary": []}),
    }

    def __init__(self, index: int, kind: str) -> None:
        self._of = _item_of(kind)
        prefix, self._head = self._ITEMS[self._of]
        self._id = new_id(prefix)
        self._index = index
        self._parts: list[_Part] = []
        self._status = "in_progress"
        self.announced = False

    def takes(self, kind: str) -> bool:
        """Whether a part of this kind belongs into it."""
        return _item_of(kind) == self._of

    def write(self, kind: str, text: str, logprobs: list[Any]) -> list[Event]:
        """Add text to the part of this kind, which is begun if the last one is of another."""
        events: list[Event] = []
        if not self.announced:
            self.announced = True
            events.append({"type": "response.output_item.added", "output_index": self._index, "item": self.snapshot()})
        if not self._parts or self._parts[-1].kind != kind:
            events += self._close_part()
            self._parts.append(_Part(kind))
            events.append(self._event("response.content_part.added", part=self._parts[-1].value()))
        part = self._parts[-1]
        if text:
            part.texts.append(text)
            extra = {"logprobs": logprobs} if kind == "output_text" else {}
            part.logprobs += logprobs
            events.append(self._event(f"response.{kind}.delta", delta=text, **extra))
        return events

    def close(self, status: str) -> list[Event]:
        """Finish the part that is open, and the item."""
        self._status = status
        events = self._close_part()
        done = {"type": "response.output_item.done", "output_index": self._index, "item": self.snapshot()}
        return [*events, done]

    def leave(self, status: str) -> None:
        """See :class:`OpenItem`."""
        if self._status == "in_progress":
            self._status = status

    def snapshot(self) -> dict[str, Any]:
        """See :class:`OpenItem`."""
        content = [part.value() for part in self._parts]
        return {"id": self._id, **self._head, "status": self._status, "content": content}

    def _close_part(self) -> list[Event]:
        if not self._parts:
            return []
        part = self._parts[-1]
        value = part.value()
        said: dict[str, Any] = {part.field: value[part.field]}
        if part.kind == "output_text":
            said["logprobs"] = value["logprobs"]
        return [
            self._event(f"response.{part.kind}.done", **said),
            self._event("response.content_part.done", part=value),
        ]

    def _event(self, type_: str, **fields: Any) -> Event:
        where = {"item_id": self._id, "output_index": self._index, "content_index": len(self._parts) - 1}
        return {"type": type_, **where, **fields}


class CallItem(OpenItem):
    """A call of a function. It gets its place when its name is known; arguments that come before that wait."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id or new_id("call")
        self.name = ""
        self.announced = False
        self._id = new_id("fc")
        self._index = 0
        self._arguments: list[str] = []
        self._pending = ""
        self._status = "in_progress"

    def add(self, name: str, arguments: str) -> None:
        """Take a fragment. Some engines repeat the name in every one."""
        self.name = self.name or name
        self._pending += arguments

    def place(self, index: int) -> None:
        """Become the item at ``index`` of the output."""
        self._index = index
        self.announced = True

    def write(self, new: bool) -> list[Event]:  # noqa: FBT001 - the one thing to know
        """What was added since the last time. ``new``: it got its place just now."""
        events: list[Event] = []
        if new:
            events.append({"type": "response.output_item.added", "output_index": self._index, "item": self.snapshot()})
        pending, self._pending = self._pending, ""
        if pending:
            self._arguments.append(pending)
            events.append(self._event("response.function_call_arguments.delta", delta=pending))
        return events

    def close(self, status: str, new: bool) -> list[Event]:  # noqa: FBT001 - as above
        """Finish it. A function that takes nothing is called with an empty object."""
        if not self._pending and not self._arguments and status == "completed":
            self._pending = "{}"
        events = self.write(new)
        self._status = status
        said = {"name": self.name, "arguments": "".join(self._arguments)}
        return [
            *events,
            self._event("response.function_call_arguments.done", **said),
            {"type": "response.output_item.done", "output_index": self._index, "item": self.snapshot()},
        ]

    def leave(self, status: str) -> None:
        """See :class:`OpenItem`."""
        if self._status == "in_progress":
            self._status = status

    def snapshot(self) -> dict[str, Any]:
        """See :class:`OpenItem`."""
        return {
            "id": self._id,
            "type": "function_call",
            "status": self._status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "".join(self._arguments),
        }

    def _event(self, type_: str, **fields: Any) -> Event:
        return {"type": type_, "item_id": self._id, "output_index": self._index, **fields}


def _item_of(kind: str) -> str:
    return "reasoning" if kind == "reasoning_text" else "message"
