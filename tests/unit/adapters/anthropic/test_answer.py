"""Whole chat completions as messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmr_adapters.http.anthropic.answer import translate_answer
from dmr_adapters.http.anthropic.errors import engine_error
from dmr_core.errors import UpstreamError


def message(choice: dict[str, Any], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(translate_answer(json.dumps({"choices": [choice], **more}).encode(), "m"))
    return made


def test_everything() -> None:
    function = {"name": "f", "arguments": '{"a":1}'}
    said = {"reasoning_content": "hm", "content": "yes", "tool_calls": [{"id": "t", "function": function}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    made = message({"finish_reason": "tool_calls", "message": said}, usage=usage)
    assert [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "yes"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ] == made["content"]
    assert ("message", "assistant", "m", "tool_use") == tuple(made[k] for k in ("type", "role", "model", "stop_reason"))
    assert (5, 3) == (made["usage"]["input_tokens"], made["usage"]["output_tokens"])


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), (None, "end_turn")],
)
def test_why_it_stopped(finish: str | None, reason: str) -> None:
    assert reason == message({"finish_reason": finish, "message": {"content": "x"}})["stop_reason"]


def test_a_call_that_was_cut_is_left_out() -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": '{"a'}}]
    made = message({"finish_reason": "length", "message": {"content": "", "tool_calls": calls}})
    assert [{}] == [block["input"] for block in made["content"]]
    assert "max_tokens" == made["stop_reason"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"choices":[]}',
        b'{"choices":[{"message":5}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{"}}]}}]}',
    ],
)
def test_what_is_no_completion_is_the_engines_error(content: bytes) -> None:
    with pytest.raises(UpstreamError, match="no chat completion"):
        translate_answer(content, "m")


@pytest.mark.parametrize(
    ("content", "status", "kind", "words"),
    [
        (b'{"error":{"code":400,"message":"bad","type":"x"}}', 400, "invalid_request_error", "bad"),
        (b'{"message":"bad"}', 422, "invalid_request_error", "bad"),
        (b'{"error":"bad"}', 500, "api_error", "bad"),
        (b'{"detail":[]}', 503, "overloaded_error", "status 503"),
        (b"<html>", 502, "api_error", "<html>"),
        (b"", 404, "not_found_error", "status 404"),
        (b'{"type":"error","error":{"type":"api_error","message":"own"}}', 400, "api_error", "own"),
    ],
)
def test_an_engines_error_gets_the_shape(content: bytes, status: int, kind: str, words: str) -> None:
    made = json.loads(engine_error(content, status))
    assert ("error", kind) == (made["type"], made["error"]["type"])
    assert words in made["error"]["message"]
