"""Nothing ignored silently: what an engine does not honour is named, or refused to who is strict."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dmr_core.domain.capability import Capabilities
from dmr_core.testing.fakes.engine import FakeEngine
from dmr_core.testing.fakes.transport import Answer as FakeAnswer
from tests.integration.test_in_process import STOCK, World, make_world

STRICT = [("dmr-strict", "1")]
CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
CAPABILITIES = Capabilities(
    values={CHAT: {"tool_choice": frozenset({b'"auto"', b'"required"'})}},
    fields={CHAT: frozenset({"model", "messages", "stream", "temperature", "response_format", "tools", "tool_choice"})},
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world(spec={"capabilities": lambda: CAPABILITIES}) as made:
        await made.pull("one")
        yield made


def answering(engine: FakeEngine, message: dict[str, Any], finish: str = "stop") -> None:
    """Let the engine answer with ``message``."""
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]}).encode()
    headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    engine.reply = lambda request: FakeAnswer(200, headers, body) if request.path == CHAT else None


async def test_a_field_the_engine_does_not_honour_is_named(world: World) -> None:
    answer = await world.chat("one", "hi", body={"top_k": 3, "foo": [1], "temperature": 0.5, "user": "me"})
    assert (200, "top_k, foo") == (answer.status, answer.headers["dmr-ignored"])


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_said_where_nothing_is_ignored(world: World, stream: bool) -> None:
    answer = await world.chat("one", "hi", body={"temperature": 0, "top_k": None, "stream": stream, "keep_alive": -1})
    assert 200 == answer.status
    assert not {name for name in answer.headers if name.startswith("dmr-")}


async def test_of_some_fields_only_some_values_are_honoured(world: World) -> None:
    named = {"type": "function", "function": {"name": "add"}}
    answer = await world.chat("one", "hi", body={"tools": [TOOL], "tool_choice": named})
    assert "tool_choice" == answer.headers["dmr-ignored"]
    answer = await world.chat("one", "hi", body={"tools": [TOOL], "tool_choice": "required"})
    assert "dmr-ignored" not in answer.headers


async def test_names_that_clients_choose_cannot_leave_their_place(world: World) -> None:
    fields = {"a\r\nset-cookie: b=c": 1, "ä,": 2, "x" * 500: 3, **{f"f{n}": 0 for n in range(40)}}
    answer = await world.chat("one", "hi", body=fields)
    names = answer.headers["dmr-ignored"].split(", ")
    assert ["a%0D%0Aset-cookie%3A%20b%3Dc", "%C3%A4%2C", "x" * 64] == names[:3]
    assert (33, "+11") == (len(names), names[-1])


async def test_a_strict_request_is_refused_before_the_engine_is_asked(world: World) -> None:
    answer = await world.chat("one", "hi", headers=STRICT, body={"top_k": 3, "foo": 1})
    error = answer.json()["error"]
    assert (400, "unsupported_field", "top_k") == (answer.status, error["code"], error["param"])
    assert "'top_k', 'foo' would be ignored" in error["message"]
    assert not world.engine.started


async def test_the_stock_cli_is_told_in_its_own_way(world: World) -> None:
    answer = await world.chat("one", "hi", headers=[*STOCK, *STRICT], body={"foo": 1})
    assert (400, "text/plain; charset=utf-8") == (answer.status, answer.headers["content-type"])
    assert answer.text.startswith("'foo' would be ignored")


async def test_a_setting_makes_every_request_strict_and_a_request_may_say_otherwise() -> None:
    async with make_world(spec={"capabilities": lambda: CAPABILITIES}, strict=True) as world:
        await world.pull("one")
        assert 400 == (await world.chat("one", "hi", body={"foo": 1})).status
        assert 200 == (await world.chat("one", "hi", body={"foo": 1}, headers=[("dmr-strict", "0")])).status


async def test_of_an_engine_that_says_nothing_about_itself_nothing_is_claimed() -> None:
    async with make_world() as world:
        await world.pull("one")
        answer = await world.chat("one", "hi", body={"foo": 1}, headers=STRICT)
        assert 200 == answer.status
        assert "dmr-ignored" not in answer.headers


FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ('{"a": 1}', 200, ""),
        ('{"a": "one"}', 502, "choices[0].message.content.a: 'one' is not of type 'integer'"),
        ("{}", 502, "'a' is a required property"),
        ("a is 1", 502, "choices[0].message.content is not JSON"),
        (None, 502, "is not JSON"),
    ],
)
async def test_structured_output_is_held_to_its_schema(world: World, content: str, status: int, words: str) -> None:
    answering(world.engine, {"role": "assistant", "content": content})
    answer = await world.chat("one", "hi", headers=STRICT, body=FORMAT)
    assert status == answer.status
    assert words in answer.text
    if status == 502:
        assert "answer_violation" == answer.json()["error"]["code"]
    assert 200 == (await world.chat("one", "hi", body=FORMAT)).status  # nobody asked for strictness


async def test_an_answer_that_says_it_was_cut_is_not_looked_at(world: World) -> None:
    answering(world.engine, {"role": "assistant", "content": '{"a"'}, finish="length")
    assert 200 == (await world.chat("one", "hi", headers=STRICT, body=FORMAT)).status


@pytest.mark.parametrize(
    ("call", "asked", "status", "words"),
    [
        (("add", '{"a": 1}'), {}, 200, ""),
        (("add", '{"a": []}'), {}, 502, "tool_calls[0].function.a: [] is not of type 'integer'"),
        (("add", '{"a": 1'), {}, 502, "arguments is not JSON"),
        (("divide", "{}"), {}, 502, "calls 'divide', a tool nobody offered"),
        (None, {"tool_choice": "required"}, 502, "does not call a tool"),
        (None, {"tool_choice": {"type": "function", "function": {"name": "add"}}}, 400, "would be ignored"),
        (None, {}, 200, ""),
    ],
)
async def test_tool_calls_are_held_to_their_schema(
    world: World, call: tuple[str, str] | None, asked: dict[str, Any], status: int, words: str
) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": "no call"}
    if call is not None:
        function = {"name": call[0], "arguments": call[1]}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]}
    answering(world.engine, message, finish="tool_calls")
    answer = await world.chat("one", "hi", headers=STRICT, body={"tools": [TOOL], **asked})
    assert status == answer.status
    assert words in answer.text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "nonsense"}, "cannot be used"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "which is not in it"),
        ({"$ref": "#"}, "without end"),
        pytest.param({"pattern": "^(a+)+$"}, "use a simpler schema", marks=pytest.mark.slow),
    ],
)
async def test_a_schema_that_cannot_be_followed_is_the_clients_error(
    world: World, schema: dict[str, Any], words: str
) -> None:
    answering(world.engine, {"role": "assistant", "content": '"' + "a" * 60 + '!"'})
    body = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    answer = await world.chat("one", "hi", headers=STRICT, body=body)
    assert 400 == answer.status
    assert words in answer.text
