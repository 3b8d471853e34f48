"""Anthropic's Messages in one process: who translates, and the shape of every error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from dmr_adapters.http.anthropic import relay
from dmr_core.domain.capability import Capabilities, Dialect, TokenCounter
from dmr_core.errors import EngineExitedError, UpstreamError
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.testing.fakes.transport import Answer as EngineAnswer
from tests.anthropic_stream import events_of, folded
from tests.asgi_client import Answer
from tests.integration.test_in_process import STOCK, World, make_world

BODY: dict[str, Any] = {"model": "one", "max_tokens": 9, "messages": [{"role": "user", "content": "hello there"}]}
PATHS = ["/anthropic/v1/messages", "/v1/messages", "/engines/v1/messages", "/engines/fake/v1/messages"]
JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream"),)
TRANSLATED = {
    "capabilities": lambda: Capabilities(
        fields={"/v1/chat/completions": frozenset({"model", "messages", "max_tokens", "stream", "tools"})}
    )
}
NATIVE = {
    "dialects": frozenset({Dialect.OPENAI, Dialect.ANTHROPIC}),
    "capabilities": lambda: Capabilities(
        fields={"/v1/messages": frozenset({"model", "messages", "max_tokens", "stream", "tools"})}
    ),
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """An engine that speaks OpenAI's dialect alone."""
    async with make_world() as made:
        await made.pull("one")
        yield made


@pytest.fixture
async def native() -> AsyncIterator[World]:
    """An engine that speaks Anthropic's as well."""
    async with make_world(spec=NATIVE) as made:
        await made.pull("one")
        yield made


@pytest.fixture(params=[TRANSLATED, NATIVE], ids=["translated", "native"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with make_world(spec=request.param) as made:
        await made.pull("one")
        yield made


def check_error(answer: Answer, status: int, kind: str, words: str) -> None:
    assert (status, "application/json") == (answer.status, answer.headers["content-type"])
    value = answer.json()
    assert ("error", kind) == (value["type"], value["error"]["type"])
    assert words in value["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_an_engine_that_does_not_speak_it_is_asked_for_a_chat(world: World, path: str) -> None:
    answer = await world.call("POST", path, {**BODY, "system": "be kind"})
    assert 200 == answer.status
    made = answer.json()
    assert ("message", "one", [{"type": "text", "text": "hello there"}]) == (
        made["type"],
        made["model"],
        made["content"],
    )
    _, asked = world.transport.requests[-1]
    assert "/v1/chat/completions" == asked.path
    assert {"role": "system", "content": "be kind"} == json.loads(asked.body)["messages"][0]


async def test_a_translated_stream(world: World) -> None:
    def reply(_request: UpstreamRequest) -> EngineAnswer:
        return EngineAnswer(200, SSE, stream())

    async def stream() -> AsyncGenerator[bytes, None]:
        for text in ("hello ", "there"):
            yield b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()
        yield b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    world.engine.reply = lambda request: reply(request) if request.path == "/v1/chat/completions" else None
    answer = await world.call("POST", "/v1/messages", {**BODY, "stream": True})
    assert "text/event-stream" == answer.headers["content-type"]
    made = folded(events_of(answer.body))
    assert ("one", "end_turn") == (made["model"], made["stop_reason"])
    assert [{"type": "text", "text": "hello there"}] == made["content"]


async def test_an_engine_that_speaks_it_gets_the_bytes_as_they_are(native: World) -> None:
    said = b'{"type":"message","model":"one","content":[],   "stop_reason":null}'
    native.engine.reply = lambda request: EngineAnswer(200, JSON, said) if request.path == "/v1/messages" else None
    raw = b'{"model": "one",  "max_tokens":9,"messages":[], "foo": 1}'
    answer = await native.call("POST", "/anthropic/v1/messages", raw)
    assert (200, said, "foo") == (answer.status, answer.body, answer.headers["dmr-ignored"])
    assert raw == native.transport.requests[-1][1].body


async def test_what_its_own_dialect_cannot_say_is_said_in_the_other(native: World) -> None:
    """llama.cpp, as one, passes over the form of the answer that a message asks for."""
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    answer = await native.call("POST", "/v1/messages", {**BODY, "output_config": form})
    assert 200 == answer.status
    assert "dmr-ignored" not in answer.headers
    asked = native.transport.requests[-1][1]
    assert "/v1/chat/completions" == asked.path
    assert "json_schema" == json.loads(asked.body)["response_format"]["type"]


async def test_a_setting_has_everything_translated() -> None:
    async with make_world(spec=NATIVE, translate=frozenset({Dialect.ANTHROPIC})) as world:
        await world.pull("one")
        assert 200 == (await world.call("POST", "/v1/messages", BODY)).status
        assert "/v1/chat/completions" == world.transport.requests[-1][1].path


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error", "words"),
    [
        ("GET", "/anthropic/v1/messages", b"", 405, "invalid_request_error", "takes POST, not GET"),
        ("DELETE", "/v1/messages/count_tokens", b"", 405, "invalid_request_error", "takes POST"),
        ("GET", "/engines/v1/messages", b"", 405, "invalid_request_error", "takes POST"),
        ("POST", "/anthropic", b"", 404, "not_found_error", "POST /anthropic"),
        ("POST", "/anthropic/v1/complete", b"{}", 404, "not_found_error", "/anthropic/v1/complete"),
        ("POST", "/v1/messages/batches", b"{}", 404, "not_found_error", "/v1/messages/batches"),
        ("GET", "/anthropic/v1/models/nope", b"", 404, "not_found_error", "Model not found: nope"),
        ("POST", "/anthropic/v1/messages", b"{", 400, "invalid_request_error", "Invalid JSON in request body"),
        ("POST", "/anthropic/v1/messages", b"\xff", 400, "invalid_request_error", "Invalid JSON"),
        ("POST", "/anthropic/v1/messages", b"[" * 3000, 400, "invalid_request_error", "nvalid"),
        ("POST", "/v1/messages", {}, 400, "invalid_request_error", "Missing required field: model"),
        ("POST", "/v1/messages", {"model": ""}, 400, "invalid_request_error", "Missing required field: model"),
        ("POST", "/v1/messages", {"model": 7}, 400, "invalid_request_error", "$.model"),
        ("POST", "/v1/messages", {"model": "a:b:c"}, 400, "invalid_request_error", "invalid reference"),
        ("POST", "/v1/messages", {"model": "nope"}, 404, "not_found_error", "Model not found: nope"),
        ("POST", "/v1/messages/count_tokens", {"model": "nope"}, 404, "not_found_error", "Model not found: nope"),
        ("POST", "/engines/foo/v1/messages", BODY, 404, "not_found_error", "backend 'foo' not found"),
        ("POST", "/v1/messages", {"model": "one", "x": "x" * 5000}, 413, "request_too_large", "at most 4096 bytes"),
    ],
)  # fmt: skip
async def test_each_error_has_the_shape(
    either: World, method: str, path: str, body: Any, status: int, error: str, words: str
) -> None:
    for headers in ([], STOCK):
        answer = await either.call(method, path, body, headers=headers)
        check_error(answer, status, error, words)
        if status == 405:
            assert "POST" == answer.headers["allow"]


async def test_a_wrong_message_is_refused_before_the_engine_is_started(world: World) -> None:
    answer = await world.call("POST", "/v1/messages", {**BODY, "messages": [{"role": "wizard", "content": "x"}]})
    check_error(answer, 400, "invalid_request_error", "messages[0].role")
    assert not world.engine.started


async def test_a_failed_load_has_the_shape(world: World) -> None:
    world.engine.fail_with = EngineExitedError("fake", 1, "no such file")
    check_error(await world.call("POST", "/v1/messages", BODY), 502, "api_error", "no such file")


@pytest.mark.parametrize(
    ("status", "error"), [(400, "invalid_request_error"), (503, "overloaded_error"), (500, "api_error")]
)
async def test_an_engines_own_error_gets_the_shape(either: World, status: int, error: str) -> None:
    content = b'{"error":{"code":%d,"message":"too long"}}' % status
    either.engine.reply = lambda asked: EngineAnswer(status, JSON, content) if asked.method == "POST" else None
    check_error(await either.call("POST", "/v1/messages", BODY), status, error, "too long")


async def test_a_stream_that_breaks_ends_with_an_error_of_the_shape(either: World) -> None:
    begun = asyncio.Event()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield b'event: x\ndata: {"choices":[{"index":0,"delta":{"content":"hel"}}]}\n\n'
        either.engine.started[0].crash(-9)
        begun.set()
        raise UpstreamError("the engine broke off")

    either.engine.reply = lambda asked: EngineAnswer(200, SSE, stream()) if asked.method == "POST" else None
    answer = await either.call("POST", "/v1/messages", {**BODY, "stream": True})
    assert begun.is_set()
    *_, last, rest = answer.body.split(b"\n\n")
    assert b"" == rest
    name, data = last.split(b"\n")
    assert b"event: error" == name
    value = json.loads(data.removeprefix(b"data: "))
    assert ("error", "api_error") == (value["type"], value["error"]["type"])


async def test_an_error_in_an_engines_own_stream_gets_the_shape(native: World) -> None:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield b'event: message_start\ndata: {"type":"message_start"}\n\n'
        yield b'event: ping\ndata: {"type":"ping"}\n\nevent: error\ndata: {"error":{"code":500,"message":"gone"}}\n\n'

    native.engine.reply = lambda asked: EngineAnswer(200, SSE, stream()) if asked.method == "POST" else None
    answer = await native.call("POST", "/v1/messages", {**BODY, "stream": True})
    *begun, last, _ = answer.body.split(b"\n\n")
    assert 2 == len(begun)
    assert {"type": "error", "error": {"type": "api_error", "message": "gone"}} == json.loads(last.split(b"data: ")[1])


async def test_a_quiet_engine_is_covered_by_pings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PING_EVERY", 0.0)

    async def stream() -> AsyncGenerator[bytes, None]:
        for _ in range(20):
            await asyncio.sleep(0)
        yield b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'

    world.engine.reply = lambda asked: EngineAnswer(200, SSE, stream()) if asked.method == "POST" else None
    answer = await world.call("POST", "/v1/messages", {**BODY, "stream": True})
    kinds = [event["type"] for event in events_of(answer.body)]
    assert ["message_start", "ping", "ping"] == kinds[:3]
    assert "message_stop" == kinds[-1]


@pytest.mark.parametrize(
    ("counter", "answers", "paths"),
    [
        (
            TokenCounter.TEMPLATE,
            {"/apply-template": {"prompt": "<hi>"}, "/tokenize": {"tokens": [1, 2, 3]}},
            ["/apply-template", "/tokenize"],
        ),
        (TokenCounter.TOKENIZE, {"/tokenize": {"count": 3}}, ["/tokenize"]),
        (None, {"/v1/chat/completions": {"usage": {"prompt_tokens": 3}}}, ["/v1/chat/completions"]),
    ],
)
async def test_tokens_are_counted_by_the_engine(
    counter: TokenCounter | None, answers: dict[str, Any], paths: list[str]
) -> None:
    async with make_world(spec={"capabilities": lambda: Capabilities(counter=counter)}) as world:
        await world.pull("one")
        world.engine.reply = lambda asked: (
            EngineAnswer(200, JSON, json.dumps(answers[asked.path]).encode()) if asked.path in answers else None
        )
        answer = await world.call("POST", "/anthropic/v1/messages/count_tokens", BODY)
        assert (200, {"input_tokens": 3}) == (answer.status, answer.json())
        assert paths == [asked.path for _, asked in world.transport.requests if asked.method == "POST"]
        if counter is None:
            assert 1 == json.loads(world.transport.requests[-1][1].body)["max_tokens"]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [(400, {"error": {"message": "bad"}}, 400), (500, {"error": "bad"}, 502), (200, {}, 502), (200, [], 502)],
)
async def test_an_engine_that_cannot_count_is_told_of(world: World, status: int, body: Any, expected: int) -> None:
    world.engine.reply = lambda asked: (
        EngineAnswer(status, JSON, json.dumps(body).encode()) if asked.method == "POST" else None
    )
    answer = await world.call("POST", "/v1/messages/count_tokens", BODY)
    assert (expected, "error") == (answer.status, answer.json()["type"])


async def test_a_strict_request_is_refused_or_held_to_its_schema(either: World) -> None:
    strict = [("dmr-strict", "1")]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    tools = [{"name": "add", "input_schema": schema}]
    function = {"name": "add", "arguments": '{"n":"x"}'}
    message = {"tool_calls": [{"id": "1", "function": function}]}
    block = {"type": "tool_use", "id": "1", "name": "add", "input": {"n": "x"}}
    said = {"/v1/chat/completions": {"choices": [{"message": message}]}, "/v1/messages": {"content": [block]}}
    either.engine.reply = lambda asked: (
        EngineAnswer(200, JSON, json.dumps(said[asked.path]).encode()) if asked.path in said else None
    )
    answer = await either.call("POST", "/v1/messages", {**BODY, "tools": tools}, headers=strict)
    check_error(answer, 502, "api_error", "content[0].n: 'x' is not of type 'integer'")
    assert 200 == (await either.call("POST", "/v1/messages", {**BODY, "tools": tools})).status
    answer = await either.call("POST", "/v1/messages", {**BODY, "foo": 1}, headers=strict)
    check_error(answer, 400, "invalid_request_error", "would be")


async def test_a_client_that_leaves_takes_its_request_with_it(world: World) -> None:
    await world.call("POST", "/v1/messages", {**BODY, "stream": True}, leave_after=1)
    (view,) = world.service.services.scheduler.runners()
    assert view.leases == 0
    assert world.transport.open_responses == set()


async def test_the_models_are_listed(world: World) -> None:
    await world.pull("two")
    page = (await world.call("GET", "/anthropic/v1/models?limit=1")).json()
    assert (1, True) == (len(page["data"]), page["has_more"])
    rest = (await world.call("GET", f"/anthropic/v1/models?after_id={page['last_id']}")).json()
    assert {"docker.io/ai/one:latest", "docker.io/ai/two:latest"} == {page["first_id"], rest["first_id"]}
    assert not rest["has_more"]
    back = (await world.call("GET", f"/anthropic/v1/models?limit=1&before_id={rest['first_id']}")).json()
    assert page["data"] == back["data"]
    one = (await world.call("GET", "/anthropic/v1/models/ai/one")).json()
    assert ("model", "ai/one") == (one["type"], one["id"])
    check_error(await world.call("GET", "/anthropic/v1/models?limit=x"), 400, "invalid_request_error", "limit")
