"""The rules that any event stream of a response obeys (OpenAI API reference, "Streaming events")."""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]
_TERMINAL = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_TEXTS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}


def parse_events(body: bytes) -> list[Event]:
    """The events of a stream, whose names agree with their types; comments are left out."""
    events = []
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        fields = dict(line.split(": ", 1) for line in lines)
        assert set(fields) == {"event", "data"}
        event = json.loads(fields["data"])
        assert event["type"] == fields["event"]
        events.append(event)
    return events


def check_events(events: list[Event], *, ended: bool = True) -> Event:
    """The final response of a stream that obeys the rules. ``ended`` is whether there must be a last event."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = [event["type"] for event in events]
    assert names[0] == "response.created"
    begin = 2 if names[1:2] == ["response.queued"] else 1
    items: dict[int, _Item] = {}
    response: Event = events[0]["response"]
    assert response["status"] == ("queued" if begin == 2 else "in_progress")
    assert response["output"] == []
    for place, event in enumerate(events[1:], 1):
        name = event["type"]
        if "response" in event:
            assert event["response"]["id"] == response["id"]
            response = event["response"]
        if name in ("response.queued", "response.in_progress"):
            assert place <= begin
        elif name in _TERMINAL:
            assert event is events[-1], "something came after the end"
            assert response["status"] == _TERMINAL[name]
        elif name == "response.output_item.added":
            assert event["output_index"] == len(items), "items are announced in the order of the output"
            assert event["item"]["status"] == "in_progress"
            items[event["output_index"]] = _Item(event["item"])
        else:
            items[event["output_index"]].take(event)
    if ended:
        assert events[-1]["type"] in _TERMINAL
        _check_end(response, items)
    ids = [item.id for item in items.values()]
    assert len(set(ids)) == len(ids)
    return response


def _check_end(response: Event, items: dict[int, _Item]) -> None:
    assert [item["id"] for item in response["output"]] == [item.id for item in items.values()]
    for item, said in zip(response["output"], items.values(), strict=True):
        assert item["type"] == said.type
        assert item["status"] in ("completed", "incomplete")
        if response["status"] == "failed":
            said.check_open_or_done(item)
        else:
            assert said.done == item
            assert item["status"] in {"completed", response["status"]}
    assert (response["error"] is not None) == (response["status"] == "failed")
    assert (response["incomplete_details"] is not None) == (response["status"] == "incomplete")
    text = "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
    assert response.get("output_text", "") == text


class _Item:
    """What the events said of one item."""

    def __init__(self, item: Event) -> None:
        self.id, self.type = item["id"], item["type"]
        self.done: Event | None = None
        self.parts: list[Event] = []
        self.open_part: str | None = None
        self.arguments = ""
        self.arguments_done = False
        if self.type == "function_call":
            assert item["name"] is not None
            assert item["call_id"]
            assert item["arguments"] == ""
        else:
            assert item["content"] == []

    def take(self, event: Event) -> None:
        """Hold an event to what was said before."""
        name = event["type"]
        assert self.done is None, f"{name} after the item was done"
        if name == "response.output_item.done":
            assert event["item"]["id"] == self.id
            assert self.open_part is None
            assert event["item"]["status"] in ("completed", "incomplete")
            self.done = event["item"]
            self._agrees(self.done)
            assert self.type != "function_call" or self.arguments_done
            return
        assert event["item_id"] == self.id
        if name.startswith("response.function_call_arguments."):
            self._take_arguments(name, event)
        elif name == "response.content_part.added":
            assert self.open_part is None
            part = event["part"]
            assert event["content_index"] == len(self.parts)
            assert part[_TEXTS[part["type"]]] == ""
            self.open_part = part["type"]
            self.parts.append({"type": part["type"], "text": "", "closed": False})
        else:
            self._take_text(name, event)

    def _take_arguments(self, name: str, event: Event) -> None:
        assert self.type == "function_call"
        assert not self.arguments_done
        if name.endswith(".delta"):
            assert event["delta"]
            self.arguments += event["delta"]
        else:
            assert event["arguments"] == self.arguments
            self.arguments_done = True

    def _take_text(self, name: str, event: Event) -> None:
        part = self.parts[-1]
        assert event["content_index"] == len(self.parts) - 1
        if name == "response.content_part.done":
            assert part["closed"]
            assert event["part"]["type"] == self.open_part
            assert event["part"][_TEXTS[part["type"]]] == part["text"]
            self.open_part = None
            return
        _, kind, what = name.split(".")
        assert kind == self.open_part
        assert not part["closed"]
        if what == "delta":
            assert event["delta"]
            part["text"] += event["delta"]
        else:
            assert what == "done"
            assert event[_TEXTS[kind]] == part["text"]
            part["closed"] = True

    def check_open_or_done(self, item: Event) -> None:
        """Of a response that failed: what was said is there, finished or not."""
        if self.done is not None:
            assert self.done == item
        self._agrees(item)

    def _agrees(self, item: Event) -> None:
        if self.type == "function_call":
            assert item["arguments"] == self.arguments
        else:
            said = [(part["type"], part["text"]) for part in self.parts]
            assert [(part["type"], part[_TEXTS[part["type"]]]) for part in item["content"]] == said
