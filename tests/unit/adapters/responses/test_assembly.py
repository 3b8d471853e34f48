"""Events of a response: what engines write, and whatever else might come from them, becomes a stream that obeys the rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.http.responses import assembly as module
from dmr_adapters.http.responses.assembly import Assembly
from dmr_adapters.http.responses.document import new_document
from dmr_adapters.http.responses.request import CreateRequest
from dmr_adapters.http.responses.upstream import DONE, ChunkReader, chunk_of
from dmr_core.errors import UpstreamError
from tests.event_rules import check_events

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def made() -> Assembly:
    return Assembly(new_document(CreateRequest(model="m"), "resp_1", 5.0), logprobs=True)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def call(index: int | None, arguments: str, name: str = "", call_id: str = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    fragment = {"function": function, **({"id": call_id} if call_id else {})}
    return delta(tool_calls=[{**fragment, **({} if index is None else {"index": index})}])


def events_of(*chunks: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    one = made()
    events = one.begin()
    try:
        for chunk in chunks:
            events += one.feed(chunk)
        events += one.finish()
    except UpstreamError as exc:
        events += one.fail(exc.message)
    final = check_events(events)
    assert final == one.document
    return events, final


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_text_is_announced_told_and_finished() -> None:
    events, final = events_of(delta(role="assistant", content=None), delta(content="Hel"), delta(content="lo"), STOP)
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert final["output_text"] == "Hello"
    assert final["output"][0]["id"].startswith("msg_")


def test_thoughts_come_before_text_as_an_item_of_their_own() -> None:
    _, final = events_of(delta(reasoning_content="hm", reasoning="hm"), delta(content="Yes"), STOP)
    reasoning, message = final["output"]
    assert reasoning["type"] == "reasoning"
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert message["content"][0]["text"] == "Yes"


def test_fragments_of_calls_are_put_together_by_their_index() -> None:
    """Fragments after the first have no ID; those of two calls may alternate."""
    events, final = events_of(
        delta(content="I look."),
        call(0, "", "weather", "call_a"),
        call(1, '{"b', "time", "call_b"),
        call(0, '{"a":'),
        call(1, '":2}'),
        call(0, "1}"),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    )
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in final["output"][1:]]
    said = names(events)
    assert said.index("output_item.done") < said.index("function_call_arguments.delta"), "text is finished before calls"
    assert calls == [("call_a", "weather", '{"a":1}'), ("call_b", "time", '{"b":2}')]


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    _, final = events_of(
        call(None, "{", "f", "call_a"), call(None, "}"), call(None, "", "g", "call_b"), call(None, "[]"), STOP
    )
    assert [(item["name"], item["arguments"]) for item in final["output"]] == [("f", "{}"), ("g", "[]")]


def test_a_call_is_announced_when_its_name_is_known() -> None:
    events, final = events_of(call(0, '{"a', "", "call_a"), call(0, '":1}', "f"), STOP)
    assert names(events)[2:5] == ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    assert final["output"][0]["arguments"] == '{"a":1}'


def test_a_function_that_takes_nothing_is_called_with_an_empty_object() -> None:
    _, final = events_of(call(0, "", "f"), STOP)
    assert final["output"][0]["arguments"] == "{}"
    assert final["output"][0]["call_id"].startswith("call_")


def test_arguments_given_as_an_object_become_text() -> None:
    _, final = events_of(delta(tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}]), STOP)
    assert final["output"][0]["arguments"] == '{"a": 1}'


@pytest.mark.parametrize(
    ("reason", "details"),
    [("length", {"reason": "max_output_tokens"}), ("content_filter", {"reason": "content_filter"})],
)
def test_what_is_cut_short_is_incomplete(reason: str, details: dict[str, str]) -> None:
    _, final = events_of(
        delta(content="Hel"), {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": reason}]}
    )
    assert final["status"] == "incomplete"
    assert final["incomplete_details"] == details
    assert final["output"][0]["status"] == "incomplete"


def test_who_has_nothing_to_say_says_so() -> None:
    _, final = events_of(STOP)
    assert final["output"][0]["content"][0]["text"] == ""


def test_a_refusal_is_a_part_of_its_own() -> None:
    _, final = events_of(delta(content="Well, "), delta(refusal="no."), STOP)
    assert [part["type"] for part in final["output"][0]["content"]] == ["output_text", "refusal"]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [delta(content="Hel")],
        [delta(content="Hel"), {"error": {"message": "boom", "code": 500}}],
        [call(0, '{"a', "f"), {"error": "boom"}],
    ],
)
def test_what_breaks_off_has_failed_and_keeps_what_was_said(chunks: list[Any]) -> None:
    _, final = events_of(*chunks)
    assert final["status"] == "failed"
    assert final["error"]["code"] == "server_error"
    assert len(final["output"]) == (1 if chunks else 0)


def test_too_much_of_it_fails_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_OUTPUT", 10)
    monkeypatch.setattr(module, "_MAX_CALLS", 2)
    _, final = events_of(delta(content="x" * 11), delta(content="y"), STOP)
    assert "longer than 10" in final["error"]["message"]
    _, final = events_of(call(0, "", "f"), call(1, "", "f"), delta(content="x"), call(2, "", "f"), STOP)
    assert "more than 2 functions" in final["error"]["message"]


def test_counts_and_probabilities_have_the_names_of_this_api() -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 99,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    chunk = delta(content="x")
    chunk["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -1, "top_logprobs": [{"token": "y"}, 3]}]}
    _, final = events_of(chunk, STOP, {"choices": [], "usage": usage}, DONE)
    assert final["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 7,
    }
    (found,) = final["output"][0]["content"][0]["logprobs"]
    assert found["token"] == "x"
    assert found["top_logprobs"] == [{"token": "y", "bytes": [121], "logprob": 0.0}]


def test_the_answer_as_it_is_meanwhile() -> None:
    one = made()
    one.begin()
    one.feed(delta(content="Hel"))
    one.feed(call(0, "", "", "call_without_a_name_yet"))
    assert [item["content"][0]["text"] for item in one.snapshot()["output"]] == ["Hel"]
    one.cancel()
    assert one.document["status"] == "cancelled"


def test_a_whole_completion_is_a_stream_of_one_chunk() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "tool_calls": [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "ab"],
    }
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    _, final = events_of(chunk_of(json.dumps(completion).encode()))
    assert [item["type"] for item in final["output"]] == ["message", "function_call", "function_call"]


# --- whatever comes

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
TEXT = st.text(max_size=4) | JUNK
FRAGMENT = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 3) | JUNK,
        "id": st.sampled_from(["a", "b", ""]) | JUNK,
        "function": st.fixed_dictionaries({}, optional={"name": TEXT, "arguments": TEXT}) | JUNK,
    },
)
DELTA = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXT,
        "reasoning_content": TEXT,
        "reasoning": TEXT,
        "refusal": TEXT,
        "tool_calls": st.lists(FRAGMENT | JUNK, max_size=3) | JUNK,
    },
)
CHOICE = st.fixed_dictionaries(
    {"delta": DELTA | JUNK},
    optional={
        "index": st.just(0) | JUNK,
        "finish_reason": st.sampled_from(["stop", "length", "tool_calls", "content_filter", "odd"]) | JUNK,
        "logprobs": st.fixed_dictionaries({"content": st.lists(JUNK, max_size=2) | JUNK}) | JUNK,
    },
)
CHUNK = (
    st.fixed_dictionaries({"choices": st.lists(CHOICE, min_size=1, max_size=2) | JUNK}, optional={"usage": JUNK})
    | st.fixed_dictionaries({"error": JUNK})
    | JUNK
    | st.just(DONE)
)


@given(st.lists(CHUNK, max_size=12))
def test_any_sequence_of_chunks_becomes_a_stream_that_obeys_the_rules(chunks: list[object]) -> None:
    events, final = events_of(*chunks)
    json.dumps(events, allow_nan=False)
    assert final["status"] in ("completed", "incomplete", "failed")


@given(st.lists(CHUNK, max_size=6), st.data())
def test_a_response_can_be_looked_at_and_cancelled_at_any_time(chunks: list[object], data: st.DataObject) -> None:
    one = made()
    events = one.begin()
    for chunk in chunks[: data.draw(st.integers(0, len(chunks)))]:
        try:
            events += one.feed(chunk)
        except UpstreamError:
            break
    seen = one.snapshot()
    one.cancel()
    assert [item["id"] for item in seen["output"]] == [item["id"] for item in one.document["output"]]
    check_events(events, ended=False)


@given(st.lists(st.text("\r\n:ab ", max_size=6), max_size=6), st.data())
def test_events_are_read_alike_however_their_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    documents = [{"a": text} for text in texts]
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    comment = f": ping{end}{end}"
    stream = "".join(f"{comment}data: {json.dumps(document)}{end}{end}" for document in documents)
    stream += f"data: [DONE]{end}{end}: the end{end}"
    content, found, reader = stream.encode(), [], ChunkReader()
    while content:
        size = data.draw(st.integers(1, len(content)))
        found += reader.feed(content[:size])
        content = content[size:]
    assert found == [*documents, DONE]


def test_an_event_over_several_lines_is_one_document() -> None:
    assert ChunkReader().feed(b'data: {"a":\ndata: 1}\nid: 3\n\n') == [{"a": 1}]


@pytest.mark.parametrize("content", [b"data: {\n\n", b"data: \xff\n\n", b"data: " + b"[" * 5000 + b"\n\n"])
def test_an_event_that_is_no_json_is_told(content: bytes) -> None:
    with pytest.raises(UpstreamError, match="is not JSON"):
        ChunkReader().feed(content)


def test_an_event_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr_adapters.http.responses.upstream._MAX_EVENT", 100)
    reader = ChunkReader()
    reader.feed(b"data: " + b"x" * 90)
    with pytest.raises(UpstreamError, match="more than 100 bytes"):
        reader.feed(b"x" * 10)
