"""Streams folded into the answers they amount to."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.transcript import fold


def sse(*values: Any, end: str = "\n\n") -> str:
    lines = [f"data: {value if isinstance(value, str) else json.dumps(value)}" for value in values]
    return end.join([*lines, "data: [DONE]", ""])


def delta(*, index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": fields, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def test_a_chat_is_put_together() -> None:
    text = sse(
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(reasoning_content="m"),
        delta(content="Hel"),
        delta(content="lo"),
        delta(finish="length"),
        {"id": "c1", "choices": [], "usage": {"total_tokens": 7}},
    )

    assert fold(text).answer == {
        "id": "c1",
        "object": "chat.completion",
        "model": "m",
        "usage": {"total_tokens": 7},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "reasoning_content": "hmm"},
                "finish_reason": "length",
            }
        ],
    }


def test_fragments_of_tool_calls_belong_together_by_index() -> None:
    def call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
        name = fields.pop("name", None)
        return {"index": index, **fields, "function": {"arguments": arguments} | ({"name": name} if name else {})}

    text = sse(
        delta(tool_calls=[call(0, '{"a"', id="x", type="function", name="f")]),
        delta(tool_calls=[call(1, "{}", id="y", name="g")]),
        delta(tool_calls=[call(0, ":1}")]),
        delta(finish="tool_calls"),
    )
    answer = fold(text).answer
    assert answer is not None

    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "id": "x", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"type": "function", "id": "y", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


def test_choices_stay_apart() -> None:
    answer = fold(sse(delta(index=1, content="b"), delta(index=0, content="a"), delta(index=1, content="B"))).answer
    assert answer is not None

    assert ["a", "bB"] == [choice["message"]["content"] for choice in answer["choices"]]


def test_legacy_completions_are_put_together() -> None:
    chunk = {"object": "text_completion", "choices": [{"index": 0, "text": "ab", "finish_reason": None}]}
    last = {"object": "text_completion", "choices": [{"index": 0, "text": "c", "finish_reason": "stop"}]}

    assert fold(sse(chunk, last, end="\r\n\r\n")).answer == {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "abc", "finish_reason": "stop"}],
    }


def test_an_anthropic_message_is_put_together() -> None:
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": {"id": "m1", "role": "assistant", "content": [], "usage": {"input_tokens": 3}}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        ("content_block_start", {"index": 1, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 1, "delta": {"type": "text_delta", "text": "Hel"}}),
        ("ping", {}),
        ("content_block_delta", {"index": 1, "delta": {"type": "text_delta", "text": "lo"}}),
        ("content_block_start", {"index": 2, "content_block": {"type": "tool_use", "name": "f", "input": {}}}),
        ("content_block_delta", {"index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}}),
        ("content_block_delta", {"index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
        ("message_delta", {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}),
        ("message_stop", {}),
    ]
    text = "".join(f"event: {name}\ndata: {json.dumps({'type': name, **value})}\n\n" for name, value in events)

    assert fold(text).answer == {
        "id": "m1",
        "role": "assistant",
        "usage": {"input_tokens": 3, "output_tokens": 9},
        "stop_reason": "tool_use",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
        ],
    }


def test_a_response_is_the_one_its_last_event_holds() -> None:
    text = sse(
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.completed", "response": {"id": "r", "status": "completed"}},
    )

    assert fold(text).answer == {"id": "r", "status": "completed"}


def test_errors_within_a_stream_are_told_with_what_came_before() -> None:
    ours = {"error": {"message": "died", "type": "server_error", "code": "engine_exited", "param": None}}
    found = fold(sse(delta(content="Hel"), ours))
    assert found.error == {
        "message": "died",
        "type": "server_error",
        "details": {"param": None, "code": "engine_exited"},
    }
    assert found.answer is not None
    assert found.answer["choices"][0]["finish_reason"] is None

    legacy = fold(
        'data: {"choices":[{"delta":{"content":"x"}}]}\n\nerror: {"code":500,"message":"boom","type":"t"}\n\n'
    )
    assert legacy.error == {"status_code": 500, "message": "boom", "type": "t"}
    anthropic = fold('event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n')
    assert anthropic.error == {"message": "busy", "type": "overloaded_error"}
    assert fold(sse({"error": "plain"})).error == {"message": "plain"}


def test_a_stream_that_was_cut_off_is_put_together_as_far_as_it_goes() -> None:
    text = sse(delta(content="Hello"), delta(content=" there"))
    answer = fold(text[: text.index("there")]).answer
    assert answer is not None

    assert answer["choices"][0]["message"]["content"] == "Hello"


def test_parts_of_the_wrong_shape_are_passed_over() -> None:
    call = delta(tool_calls=[{"index": 0, "id": "x", "function": "f"}, 7])
    odd = {"type": "message_delta", "delta": 1, "usage": 2}
    answer = fold(sse(call)).answer
    assert answer is not None

    assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "", "arguments": ""}
    assert fold(sse({"type": "message_start", "message": {"id": "m"}}, odd)).answer == {"id": "m", "content": []}


def test_what_is_no_stream_is_nothing() -> None:
    for text in ("", "hello", "data: [1]\n\n", "data: {\n\n", "event: x\n\n", 'data: {"a": 1}\n\n'):
        assert (None, None) == (fold(text).answer, fold(text).error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "index",
                    "tool_calls",
                    "function",
                    "type",
                    "message",
                    "content_block",
                    "error",
                    "text",
                    "usage",
                    "content",
                    "arguments",
                    "name",
                    "response",
                    "code",
                ]
            ),
            inner
            | st.sampled_from(
                ["message_start", "content_block_start", "content_block_delta", "message_delta", "error", "response.x"]
            ),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.lists(_JSON, max_size=6), st.text(max_size=20))
def test_nothing_an_engine_writes_breaks_it(values: list[Any], noise: str) -> None:
    text = sse(*values) + noise
    found = fold(text)

    assert len(json.dumps([found.answer, found.error])) <= 20 * len(json.dumps(text)) + 500
