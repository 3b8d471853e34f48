"""Requests of Anthropic's as chat completions, field by field."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dmr_adapters.http.anthropic.request import Translation, read_request, translate
from dmr_core.errors import InvalidRequestError

PNG = base64.b64encode(b"\x89PNG").decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
BASE = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"name": "weather", "description": "d", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}


def translated(honours: Callable[[str], bool] = lambda _field: True, **fields: Any) -> Translation:
    body = json.dumps({**BASE, **fields}).encode()
    return translate(read_request(body), msgspec.json.decode(body, type=dict[str, msgspec.Raw]), honours)


def chat(**fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(translated(**fields).body)
    return made


def messages(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = chat(messages=list(turns))["messages"]
    return made


def test_the_least() -> None:
    assert {**BASE} == chat()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 3}, {"temperature": 0.5, "top_p": 0.9, "top_k": 3}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
        ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
        ({"tools": [{**TOOL, "type": "custom"}], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tools": [FUNCTION], "tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}},
            {
                "tools": [FUNCTION],
                "tool_choice": "required",
                "parallel_tool_calls": False,
            },
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_budget_tokens": 1024},
        ),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
                },
                "reasoning_effort": "low",
            },
        ),
        ({"metadata": {"user_id": "u"}, "service_tier": "auto"}, {}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": None}, {}),
    ],
)  # fmt: skip
def test_each_field_has_its_counterpart(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {**BASE, **expected} == chat(**asked)
    assert not translated(**asked).fidelity.headers()


def test_the_system_prompt_is_the_first_message() -> None:
    asked = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    assert {"role": "system", "content": "a\nb"} == chat(system=asked)["messages"][0]
    assert {"role": "system", "content": "ab"} == chat(system="ab")["messages"][0]


def test_words_and_pictures() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    asked = {"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image", "source": source}]}
    (made,) = messages(asked)
    assert [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ] == made["content"]


def test_words_alone_are_a_string() -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert [{"role": "user", "content": "a\nb"}] == messages(asked)


def test_a_turn_with_a_tool() -> None:
    """Results of tools are messages of their own, in front of what the user says beside them."""
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ä"}}
    turns = messages(
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, use]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                {"type": "text", "text": "and?"},
            ],
        },
    )
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ä"}'}}
    assert [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
        {"role": "user", "content": "and?"},
    ] == turns


def test_a_picture_from_a_tool_follows_its_result() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [picture]}
    first, second = messages({"role": "user", "content": [result]})
    assert ("tool", "") == (first["role"], first["content"])
    assert ("user", "image_url") == (second["role"], second["content"][0]["type"])


def test_a_text_document_is_read_out() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "body"}
    asked = {"role": "user", "content": [{"type": "document", "source": source, "title": "T"}]}
    made = translated(messages=[asked])
    assert "T\nbody" == made.chat["messages"][0]["content"]
    assert [(b"dmr-emulated", b"messages[0].content[0]")] == made.fidelity.headers()


def test_a_last_turn_of_the_assistants_is_continued() -> None:
    made = chat(messages=[*BASE["messages"], {"role": "assistant", "content": "It is"}])  # type: ignore[misc]  # a list
    assert (True, False) == (made["continue_final_message"], made["add_generation_prompt"])


def test_what_the_engine_does_not_honour_is_left_out_and_named() -> None:
    made = translated(
        lambda field: field in ("messages", "max_tokens", "tools"),
        top_k=1,
        tools=[TOOL, {"name": "web_search", "type": "web_search_20250305"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        frobnicate=1,
        messages=[*BASE["messages"], {"role": "assistant", "content": "x"}],  # type: ignore[misc]  # a list
    )
    assert {"model", "messages", "max_tokens", "tools"} == set(made.chat)
    expected = b"top_k, tools[1], thinking, thinking.budget_tokens, output_config.format, messages[1], frobnicate"
    assert [(b"dmr-ignored", expected)] == made.fidelity.headers()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"max_tokens": 0}, "max_tokens: must be from 1"),
        ({"max_tokens": "x"}, "$.max_tokens"),
        ({"messages": 5}, "$.messages"),
        ({"messages": [{"role": "wizard", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "frob"}]}]}, "$.messages[0].content[0].type"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"tool_choice": {"type": "any"}}, "there is no tool"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "no tool is called 'x'"),
        ({"tools": [TOOL], "tool_choice": {"type": "frob"}}, "'frob' is none of"),
        ({"tools": [{}]}, "$.tools[0]"),
        ({"thinking": {"type": "frob"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2**40}}, "out of range"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
    ],
)
def test_a_wrong_request_is_refused_where_it_is_wrong(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**asked)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}, "nothing is fetched"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "nothing is fetched"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "!"}}, "is not base64"),
        ({"type": "image", "source": {"type": "base64", "media_type": "text/html", "data": PNG}}, "no picture's"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}}, "plain text"),
        ({"type": "tool_use", "id": "1", "name": "x", "input": {}}, "a 'tool_use' block cannot be said by the user"),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_said_is_refused_by_its_place(block: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        messages({"role": "user", "content": [block]})
    assert words in caught.value.message
    assert "messages[0].content[0]" in caught.value.message
