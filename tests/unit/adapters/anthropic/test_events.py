"""A streamed chat completion becomes a streamed message, whatever the engine's chunks look like."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmr_adapters.http.anthropic.events import EventReader, MessageEvents
from dmr_core.errors import UpstreamError
from tests.anthropic_stream import events_of, folded

EXAMPLES = int(os.environ.get("DMR_EXAMPLES", "200"))


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice], **more}


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def translated(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    events = MessageEvents("m")
    said = events.begin() + b"".join(events.chunk(json.dumps(value).encode()) for value in chunks)
    said += events.chunk(b"[DONE]") + events.end()
    assert events.finished
    return folded(events_of(said))


def test_text() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    message = translated(
        [
            chunk({"role": "assistant", "content": None}),
            chunk({"content": "a"}),
            chunk({"content": "b"}),
            chunk(finish="stop"),
            {"choices": [], "usage": usage},
        ]
    )
    assert [{"type": "text", "text": "ab"}] == message["content"]
    assert ("m", "end_turn", None) == (message["model"], message["stop_reason"], message["stop_sequence"])
    assert (5, 4, 2) == tuple(
        message["usage"][key] for key in ("input_tokens", "cache_read_input_tokens", "output_tokens")
    )


def test_thoughts_come_before_words() -> None:
    message = translated([chunk({"reasoning_content": "hm"}), chunk({"content": "yes"}), chunk(finish="length")])
    assert [("thinking", "hm"), ("text", "yes")] == [
        (b["type"], b.get("thinking") or b["text"]) for b in message["content"]
    ]
    assert "max_tokens" == message["stop_reason"]


def test_calls_of_tools_side_by_side() -> None:
    """Only the first fragment of a call has its name; the index says whose the others are, in whatever order."""
    message = translated(
        [
            chunk({"content": "let me see"}),
            chunk(call(0, "", id="a", name="one")),
            chunk(call(0, '{"x"')),
            chunk(call(1, '{"y":', id="b", name="two")),
            chunk({"content": "…"}),
            chunk(call(0, ":1}")),
            chunk(call(1, "2}")),
            chunk(call(2, "", name="three")),
            chunk(finish="tool_calls"),
        ]
    )
    assert "tool_use" == message["stop_reason"]
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    assert [("one", {"x": 1}), ("two", {"y": 2}), ("three", {})] == [(c["name"], c["input"]) for c in calls]
    assert ["a", "b"] == [c["id"] for c in calls[:2]]
    assert calls[2]["id"].startswith("toolu_")
    assert "let me see…" == "".join(block.get("text", "") for block in message["content"])


def test_a_stop_sequence_is_told_where_the_engine_tells() -> None:
    last = chunk(finish="stop")
    last["choices"][0]["stop_reason"] = "END"
    message = translated([chunk({"content": "a"}), last])
    assert ("stop_sequence", "END") == (message["stop_reason"], message["stop_sequence"])


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"error":{"message":"boom"}}', b'{"error":"boom"}'])
def test_what_is_no_chunk_is_an_error(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        MessageEvents("m").chunk(data)


def test_an_answer_that_ends_early_is_an_error() -> None:
    events = MessageEvents("m")
    events.chunk(json.dumps(chunk({"content": "a"})).encode())
    with pytest.raises(UpstreamError, match="before it was complete"):
        events.end()


def test_a_call_without_a_name_is_an_error() -> None:
    events = MessageEvents("m")
    events.chunk(json.dumps(chunk(call(0, "{}"), "tool_calls")).encode())
    with pytest.raises(UpstreamError, match="does not say which"):
        events.end()


PIECE = st.text(max_size=6)
JSON_OBJECT = st.dictionaries(st.text(max_size=4), st.one_of(st.integers(), st.text(max_size=4)), max_size=3)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], str, str, list[tuple[str, Any]]]:
    """Chunks in an order an engine might choose, and what they say."""
    thoughts, words = draw(st.lists(PIECE, max_size=4)), draw(st.lists(PIECE, max_size=4))
    calls = draw(st.lists(st.tuples(st.text(min_size=1, max_size=5), JSON_OBJECT), max_size=3))
    queues = [
        [chunk({"reasoning_content": text}) for text in thoughts],
        [chunk({"content": text}) for text in words],
    ]
    for index, (name, value) in enumerate(calls):
        text = json.dumps(value)
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        fragments = [chunk(call(index, pieces[0], id=f"id{index}", name=name))]
        queues.append(fragments + [chunk(call(index, piece)) for piece in pieces[1:]])
    mixed = []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        mixed.append(queue.pop(0))
    mixed.append(chunk(finish=draw(st.sampled_from(["stop", "length", "tool_calls"]))))
    if draw(st.booleans()):
        mixed.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": draw(st.integers(0, 9))}})
    return mixed, "".join(thoughts), "".join(words), calls


@settings(max_examples=EXAMPLES, deadline=None)
@given(streams())
def test_nothing_is_lost_and_the_order_of_events_is_right(made: tuple[list[dict[str, Any]], str, str, Any]) -> None:
    chunks, thoughts, words, calls = made
    message = translated(chunks)
    blocks = message["content"]
    assert words == "".join(block["text"] for block in blocks if block["type"] == "text")
    assert thoughts == "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    told = [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
    assert sorted((f"id{i}", *call) for i, call in enumerate(calls)) == sorted(told)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "index",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "usage",
                    "finish_reason",
                    "reasoning_content",
                    "error",
                    "id",
                    "prompt_tokens",
                    "prompt_tokens_details",
                    "stop_reason",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(JUNK, max_size=6))
def test_whatever_an_engine_says_is_a_proper_stream_or_one_error(values: list[Any]) -> None:
    events = MessageEvents("m")
    said = events.begin()
    try:
        for value in [*values, chunk(finish="stop")]:
            said += events.chunk(json.dumps(value).encode())
        said += events.end()
    except UpstreamError:
        assert events_of(said)[0]["type"] == "message_start"
        return
    folded(events_of(said))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(texts: list[str], end: str, data: st.DataObject) -> None:
    stream = "".join(f": ping{end}{end}event: x{end}data: {text}{end}{end}" for text in texts).encode()
    stream += b"" if end != "\r" else b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    reader = EventReader()
    found = [
        event
        for begin, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for event in reader.feed(stream[begin:stop])
    ]
    assert [text.encode() for text in texts] == found


def test_an_endless_event_is_refused() -> None:
    reader = EventReader()
    half = b"data: " + b"x" * (9 * 1024 * 1024)
    assert [] == list(reader.feed(half))
    with pytest.raises(UpstreamError, match="longer than"):
        list(reader.feed(half))
