"""What a stream of Anthropic's events has to look like, and the message that it adds up to."""

from __future__ import annotations

import json
from typing import Any

_DELTAS = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}
_REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn"}


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The events, each with the name that its data has for a type."""
    assert stream.endswith(b"\n\n")
    found = []
    for event in stream[:-2].split(b"\n\n"):
        name, data = event.split(b"\n")
        value = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + value["type"].encode()
        found.append(value)
    return found


def folded(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that ``events`` add up to. Fails where they are not a whole and proper stream."""
    events = [event for event in events if event["type"] != "ping"]
    first, *middle, delta, last = events
    assert first["type"] == "message_start"
    message: dict[str, Any] = first["message"]
    assert message["content"] == []
    assert message["id"]
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", None)
    assert {"input_tokens", "output_tokens"} <= message["usage"].keys()
    block: dict[str, Any] | None = None
    for event in middle:
        if event["type"] == "content_block_start":
            assert block is None, "a block within a block"
            assert event["index"] == len(message["content"])
            block = {**event["content_block"], "parts": []}
            assert block["type"] in _DELTAS
            assert block.get("input", {}) == {}
            message["content"].append(block)
        elif event["type"] == "content_block_delta":
            assert block is not None, "a delta outside a block"
            assert event["index"] == len(message["content"]) - 1
            assert event["delta"]["type"] in _DELTAS[block["type"]]
            block["parts"].append(event["delta"])
        else:
            assert event["type"] == "content_block_stop"
            assert block is not None, "the end of no block"
            assert event["index"] == len(message["content"]) - 1
            _close(block)
            block = None
    assert block is None, "a block without an end"
    assert (delta["type"], last) == ("message_delta", {"type": "message_stop"})
    assert delta["delta"]["stop_reason"] in _REASONS
    assert delta["usage"]["output_tokens"] >= 0
    return {**message, **delta["delta"], "usage": {**message["usage"], **delta["usage"]}}


def _close(block: dict[str, Any]) -> None:
    parts = block.pop("parts")
    if block["type"] == "tool_use":
        assert block["id"]
        assert block["name"]
        block["input"] = json.loads("".join(part["partial_json"] for part in parts) or "{}")
    elif block["type"] == "text":
        block["text"] += "".join(part["text"] for part in parts)
    else:
        block["thinking"] += "".join(part.get("thinking", "") for part in parts)
