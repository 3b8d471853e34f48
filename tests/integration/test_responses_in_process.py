"""The Responses API on an engine that says what a test wants, over the whole service in one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.capability import Capabilities
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.errors import StorageFullError
from dmr_core.ports.response_store import KeptResponse
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.engine import FakeEngine, FakeRunningEngine, fake_backend
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.response_store import InMemoryResponseStore
from dmr_core.testing.fakes.transport import Answer as UpstreamAnswer
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.event_rules import check_events, parse_events
from tests.integration.test_in_process import artifact

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
BASES = ("", "/v1", "/engines", "/engines/v1", "/engines/fake/v1")


@attrs.define(eq=False)
class ScriptedEngine(FakeEngine):
    """Says ``messages``, one each time, the last one again and again; ``asked`` are the bodies it was sent.

    ``refusals`` come first: a status and a document each. ``go`` can be cleared to hold a stream after its first chunk.
    ``broken`` streams end in the middle. A ``tolerant`` engine refuses what it cannot read.
    """

    messages: list[dict[str, Any]] = attrs.field(factory=lambda: [{"content": "Hello there"}])
    reason: str = "stop"
    asked: list[dict[str, Any]] = attrs.field(factory=list)
    refusals: list[tuple[int, Any]] = attrs.field(factory=list)
    go: asyncio.Event = attrs.field(factory=asyncio.Event)
    broken: bool = False
    tolerant: bool = False
    left: int = 0

    async def _answer(self, running: FakeRunningEngine, request: UpstreamRequest) -> UpstreamAnswer:
        if request.path == self.health_path:
            return UpstreamAnswer(200, body=b"{}")
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):  # the service passes on what it need not understand
            assert self.tolerant
            refusal = b'{"error":{"message":"?","type":"?","code":null,"param":null}}'
            return UpstreamAnswer(400, ((b"content-type", b"application/json"),), refusal)
        self.asked.append(body)
        if self.refusals:
            status, document = self.refusals.pop(0)
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            return UpstreamAnswer(status, ((b"content-type", b"application/json"),), content)
        message = self.messages.pop(0) if len(self.messages) > 1 else self.messages[0]
        if body.get("stream"):
            return UpstreamAnswer(200, ((b"content-type", b"text/event-stream"),), self._chunks(message))
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": self.reason}
        content = json.dumps({"choices": [choice], "usage": USAGE}).encode()
        headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)))
        return UpstreamAnswer(200, headers, content)

    async def _chunks(self, message: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        deltas = [{"content": word} for word in (message.get("content") or "").split(" ") if word]
        deltas += [{"tool_calls": [{**one, "index": n}]} for n, one in enumerate(message.get("tool_calls", ()))]
        try:
            for number, delta in enumerate(deltas):
                if number == 1:
                    await self.go.wait()
                yield _event({"choices": [{"index": 0, "delta": delta}]})
            if self.broken:
                return
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": self.reason}]})
            yield _event({"choices": [], "usage": USAGE})
            yield b"data: [DONE]\n\n"
        except (GeneratorExit, asyncio.CancelledError):
            self.left += 1
            raise


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@attrs.frozen
class World:
    service: Service
    engine: ScriptedEngine
    store: InMemoryResponseStore
    clock: FakeClock

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def create(self, base: str = "/v1", **body: Any) -> Answer:
        return await self.call("POST", f"{base}/responses", {"model": "one", "input": "Hi", **body})

    async def made(self, **body: Any) -> dict[str, Any]:
        answer = await self.create(**body)
        assert answer.status == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def get(self, name: str, rest: str = "") -> Answer:
        return await self.call("GET", f"/v1/responses/{name}{rest}")

    async def until(self, name: str, status: str) -> dict[str, Any]:
        """The response, once it has this status."""
        async with asyncio.timeout(5):
            while (found := (await self.get(name)).json())["status"] != status:
                await asyncio.sleep(0)
        made: dict[str, Any] = found
        return made


@asynccontextmanager
async def make_world(*, spec: dict[str, Any] | None = None, **changes: Any) -> AsyncIterator[World]:
    transport, registry, clock = InMemoryTransport(), InMemoryRegistry(), FakeClock()
    engine, store = ScriptedEngine(transport), InMemoryResponseStore(clock)
    engine.go.set()
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        metrics=InMemoryMetrics(),
        clock=clock,
        responses=None if changes.pop("stateless", False) else store,
        entry_points=(),
        backends=(fake_backend(engine, **(spec or {})),),
    )
    settings = Settings(models_path=Path("/nowhere"), max_runners=1, max_body=65536, health_interval=0, **changes)
    made, weights = artifact(b"ai/one")
    registry.seed(parse_reference("ai/one", ReferencePolicy()), made, [weights])
    async with open_service(settings, overrides) as service:
        await call(service.app, "POST", "/models/create", {"from": "one"})
        yield World(service, engine, store, clock)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


# --- asking


@pytest.mark.parametrize("base", BASES)
async def test_a_response_on_every_path(world: World, base: str) -> None:
    answer = await world.create(base)
    made = answer.json()
    assert (answer.status, made["status"], made["output_text"], made["model"]) == (
        200,
        "completed",
        "Hello there",
        "one",
    )
    assert made["usage"]["total_tokens"] == 5
    assert answer.headers["x-dmr-backend"].startswith("fake")
    assert "server-timing" in answer.headers
    assert world.engine.asked == [{"model": "one", "messages": [{"role": "user", "content": "Hi"}]}]
    assert (await world.call("GET", f"{base}/responses/{made['id']}")).json() == made


async def test_every_field_reaches_the_engine_under_its_name_there(world: World) -> None:
    schema = {"type": "object"}
    made = await world.made(
        instructions="Be brief.",
        tools=[TOOL, {"type": "function", "function": {"name": "time"}}],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.25,
        top_logprobs=2,
        max_output_tokens=7,
        text={"format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        metadata={"a": "b"},
        user="me",
        include=["reasoning.encrypted_content"],
        keep_alive="10m",
        store=False,
    )
    assert world.engine.asked == [
        {
            "model": "one",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "tools": [
                {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}},
                {"type": "function", "function": {"name": "time", "strict": False}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False,
            "temperature": 0.5,
            "top_p": 0.25,
            "max_tokens": 7,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
            "reasoning_effort": "low",
            "user": "me",
            "keep_alive": "10m",
            "logprobs": True,
            "top_logprobs": 2,
        }
    ]
    assert made["tools"][0] == {**TOOL, "description": None}
    assert made["reasoning"] == {"effort": "low", "summary": "auto"}
    assert (made["metadata"], made["user"], made["store"]) == ({"a": "b"}, "me", False)
    assert (await world.get(made["id"])).status == 404
    assert world.store.kept == {}


async def test_a_conversation_of_every_kind_of_item(world: World) -> None:
    await world.made(
        input=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bonn"}'},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Rain."}, {"type": "refusal", "refusal": "No."}],
            },
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "And this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                ],
            },
        ]
    )
    call_1 = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    call_2 = {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert world.engine.asked[0]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call_1, call_2], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
        {"role": "assistant", "content": [{"type": "text", "text": "Rain."}, {"type": "text", "text": "No."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({"model": None}, "model", "model is required"),
        ({"model": 5}, "model", "Expected `str | null`"),
        ({"input": 5}, "input", "invalid request"),
        ({"input": None}, "input", "input is required"),
        ({"input": []}, "input", "input is required"),
        ({"input": [{"type": "computer_call"}]}, "input[0]", "'computer_call' are not supported"),
        ({"input": [{"type": ["x"]}]}, "input[0]", "are not supported"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "item_reference"),
        ({"input": [{"role": "narrator", "content": "x"}]}, "input[0].role", "'narrator' is not a role"),
        ({"input": [{"role": "user"}]}, "input[0].content", "expected a string or a list"),
        ({"input": [{"role": "user", "content": [5]}]}, "input[0].content[0]", "expected an object"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "'input_file'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "image_url is required",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "call_id is required"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", "expected a string"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "tool type 'web_search' is not supported"),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name", "is no name of a function"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 3}]}, "tools[0].parameters", "JSON schema"),
        ({"tool_choice": "always"}, "tool_choice", "'always' is not known"),
        ({"tool_choice": "required"}, "tool_choice", "names none"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "no function 'x'"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice", "'mcp' is not supported"),
        ({"temperature": 3}, "temperature", "<= 2"),
        ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"truncation": "middle"}, "truncation", "middle"),
        ({"include": ["everything"]}, "include", "'everything' is not known"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "17 pairs"),
        ({"metadata": {"a": "x" * 513}}, "metadata", "too long"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt", "no stored prompt"),
        ({"background": True, "store": False}, "background", "background needs store"),
        ({"service_tier": "gold"}, "service_tier", "use auto"),
        ({"previous_response_id": "resp_nope"}, "previous_response_id", "was not found"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "unsupported text.format.type 'xml'"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "name is required"),
        ({"text": {"format": {"type": "json_schema", "name": "a b"}}}, "text.format.name", "maximum length of 64"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "schema is required"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": 3}}},
            "text.format.schema",
            "must be a JSON object",
        ),
        ({"tools": [{**TOOL, "parameters": {"n": 10**30}}]}, None, "64-bit"),
        ({"keep_alive": "soon"}, "keep_alive", "invalid keep_alive duration"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(
    world: World, body: dict[str, Any], param: str | None, text: str
) -> None:
    answer = await world.create(**body)
    error = answer.json()["error"]
    assert answer.status == 400, error
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert text in error["message"]
    assert world.engine.asked == []


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_ignored_is_named_or_refused_to_the_strict(*, stream: bool) -> None:
    """In the names of this API, be it ignored on the way to the engine or by the engine."""
    honoured = Capabilities(
        fields={"/v1/chat/completions": frozenset({"model", "messages", "stream", "stream_options"})}
    )
    async with make_world(spec={"capabilities": lambda: honoured}) as world:
        body = {
            "model": "one",
            "input": "Hi",
            "stream": stream,
            "frobnicate": 1,
            "nothing": None,
            "text": {"verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 5,
            "truncation": "auto",
            "prompt_cache_key": "inert",
        }
        answer = await world.call("POST", "/v1/responses", body)
        assert answer.status == 200
        ignored = "frobnicate, text.verbosity, reasoning.summary, max_output_tokens, reasoning.effort"
        assert (ignored, "truncation") == (answer.headers["dmr-ignored"], answer.headers["dmr-emulated"])
        for strict, param in ((body, "frobnicate"), ({**body, "frobnicate": None}, "text.verbosity")):
            answer = await world.call("POST", "/v1/responses", strict, headers=[("dmr-strict", "1")])
            error = answer.json()["error"]
            assert (400, "unsupported_field", param) == (answer.status, error["code"], error["param"])
        by_engine = {"model": "one", "input": "Hi", "stream": stream, "reasoning": {"effort": "low"}}
        answer = await world.call("POST", "/v1/responses", by_engine, headers=[("dmr-strict", "1")])
        assert (400, "reasoning.effort") == (answer.status, answer.json()["error"]["param"])


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_refusal_keeps_its_status_and_gets_the_shape(world: World, *, stream: bool) -> None:
    refusal = {"error": {"code": 400, "message": "no such thing", "type": "invalid_request_error"}}
    world.engine.refusals = [(400, refusal), (418, b"I am a teapot\n")]
    first, second = [await world.create(stream=stream) for _ in range(2)]
    assert (400, {**refusal["error"], "code": None, "param": None}) == (first.status, first.json()["error"])
    assert (418, "I am a teapot") == (second.status, second.json()["error"]["message"])
    assert world.store.kept == {}


async def test_images_elsewhere_and_bodies_without_end_in_depth_are_refused(world: World) -> None:
    part = {"type": "input_image", "image_url": "http://192.0.2.1/cat.png"}
    for stream in (False, True):
        answer = await world.create(input=[{"role": "user", "content": [part]}], stream=stream)
        assert (400, "invalid_request_error") == (answer.status, answer.json()["error"]["type"])
    answer = await world.call(
        "POST", "/v1/responses", b'{"model":"one","input":"x","x":' + b"[" * 200 + b"]" * 200 + b"}"
    )
    assert "nested deeper" in answer.json()["error"]["message"]
    assert world.engine.asked == []


async def test_a_body_that_is_too_large_is_413(world: World) -> None:
    answer = await world.create(input="x" * 70_000)
    assert (413, "request_too_large") == (answer.status, answer.json()["error"]["code"])


async def test_a_model_that_does_not_exist_is_404_on_every_way(world: World) -> None:
    ways: list[dict[str, Any]] = [{}, {"stream": True}, {"background": True}]
    for options in ways:
        answer = await world.create(model="nope", **options)
        assert (404, "model_not_found") == (answer.status, answer.json()["error"]["code"])
    assert (await world.create("/engines/nope/v1")).status == 404


async def test_the_stock_cli_gets_what_everybody_gets(world: World) -> None:
    """As from the service it was made for: it never asks for responses, but its user agent may be borrowed."""
    for body, status, code in (
        ({"model": "nope", "input": "Hi"}, 404, "model_not_found"),
        ({}, 400, "invalid_request"),
    ):
        answer = await world.call("POST", "/v1/responses", body, headers=[("user-agent", "docker-model-cli/v1.0")])
        assert (status, code) == (answer.status, answer.json()["error"]["code"])


async def test_an_engine_that_talks_nonsense_is_a_502(world: World) -> None:
    world.engine.refusals = [(200, b"no json")]
    answer = await world.create()
    assert (502, "upstream_error") == (answer.status, answer.json()["error"]["code"])


# --- streams


async def test_a_stream_obeys_the_rules_and_is_stored_before_its_end(world: World) -> None:
    answer = await world.create(stream=True, tools=[TOOL])
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "x-dmr-backend" in answer.headers
    final = check_events(parse_events(answer.body))
    assert final["output_text"] == "Hellothere"
    assert final["usage"]["input_tokens"] == 3
    assert (await world.get(final["id"])).json() == final
    assert world.engine.asked[0]["stream_options"] == {"include_usage": True}


async def test_who_hears_the_end_finds_it_stored(world: World) -> None:
    found = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            if b"event: response.completed" in message.get("body", b""):
                (event,) = parse_events(message["body"])[-1:]
                found.append(event["response"]["id"] in world.store.kept)
            await send(message)

        await world.service.app(scope, receive, watched)

    await call(app, "POST", "/v1/responses", {"model": "one", "input": "Hi", "stream": True})
    assert found == [True]


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_calls_of_functions_in_a_stream_and_whole(world: World, reason: str) -> None:
    functions = [{"id": f"c{n}", "function": {"name": "weather", "arguments": f'{{"n":{n}}}'}} for n in range(2)]
    world.engine.messages, world.engine.reason = [{"content": "Look:", "tool_calls": functions}], reason
    whole = await world.made(tools=[TOOL])
    streamed = check_events(parse_events((await world.create(tools=[TOOL], stream=True)).body))
    for made in (whole, streamed):
        assert [item.get("arguments") for item in made["output"]] == [None, '{"n":0}', '{"n":1}']
        assert made["status"] == ("completed" if reason == "stop" else "incomplete")


async def test_an_engine_that_breaks_off_ends_the_stream_with_a_failure(world: World) -> None:
    world.engine.broken = True
    final = check_events(parse_events((await world.create(stream=True)).body))
    assert final["status"] == "failed"
    assert (await world.get(final["id"])).json()["status"] == "failed"
    after = await world.create(previous_response_id=final["id"])
    assert (400, "previous_response_not_found") == (after.status, after.json()["error"]["code"])
    assert "is failed" in after.json()["error"]["message"]


async def test_a_client_that_leaves_stops_the_engine_and_leaves_a_cancelled_response(world: World) -> None:
    world.engine.go.clear()
    answer = await world.call("POST", "/v1/responses", {"model": "one", "input": "Hi", "stream": True}, leave_after=2)
    (created, *_) = parse_events(answer.body)
    found = (await world.get(created["response"]["id"])).json()
    assert (found["status"], found["output_text"]) == ("cancelled", "Hello")
    assert world.engine.left == 1


async def test_a_full_disk_costs_the_storing_not_the_answer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.store.fail_with = StorageFullError("full")
    assert (await world.made())["store"] is False
    final = check_events(parse_events((await world.create(stream=True)).body))
    assert (final["status"], final["store"]) == ("completed", False)
    assert caplog.text.count("is not stored: full") == 2


# --- going on


async def test_a_chain_keeps_everything_that_was_said(world: World) -> None:
    function = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    world.engine.messages = [{"content": "A"}, {"content": None, "tool_calls": [function]}, {"content": "C"}]
    first = await world.made(instructions="Only for the first.", input="one")
    second = await world.made(previous_response_id=first["id"], input="two", tools=[TOOL])
    output = [{"type": "function_call_output", "call_id": "c1", "output": "rain"}]
    third = await world.made(previous_response_id=second["id"], input=output, instructions="New.")
    assert world.engine.asked[2]["messages"] == [
        {"role": "system", "content": "New."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": None, "tool_calls": [function]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    assert third["previous_response_id"] == second["id"]

    page = (await world.get(third["id"], "/input_items?order=asc")).json()
    assert [item["type"] for item in page["data"]] == [
        "message",
        "message",
        "message",
        "function_call",
        "function_call_output",
    ]
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
    assert page["has_more"] is False


async def test_lists_of_input_come_in_pages_the_newest_first(world: World) -> None:
    items = [{"role": "user", "content": str(number), "id": f"msg_{number}"} for number in range(7)]
    name = (await world.made(input=items))["id"]
    seen, after = [], ""
    while True:
        page = (await world.get(name, f"/input_items?limit=3{after}")).json()
        seen += [item["content"][0]["text"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == list("6543210")
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=no", "after")):
        answer = await world.get(name, f"/input_items?{query}")
        assert (400, param) == (answer.status, answer.json()["error"]["param"])


async def test_a_chain_with_a_missing_link_is_refused(world: World) -> None:
    first = await world.made()
    second = await world.made(previous_response_id=first["id"])
    deleted = await world.call("DELETE", f"/v1/responses/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    answer = await world.create(previous_response_id=second["id"])
    assert (400, "previous_response_not_found") == (answer.status, answer.json()["error"]["code"])
    assert first["id"] in answer.json()["error"]["message"]


async def test_a_conversation_beyond_the_limit_is_refused(world: World) -> None:
    name = (await world.made(input="x" * 60_000))["id"]
    answer = await world.create(previous_response_id=name, input="y" * 60_000)
    assert answer.status == 400
    assert "DMR_MAX_BODY" in answer.json()["error"]["message"]


async def test_what_is_not_used_is_forgotten(world: World) -> None:
    world.store._lifetime = 100.0
    name = (await world.made())["id"]
    await world.clock.advance(101)
    for method, rest in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
        answer = await world.call(method, f"/v1/responses/{name}{rest}")
        assert (404, "response_not_found") == (answer.status, answer.json()["error"]["code"])


async def test_truncation_drops_the_oldest_turns_until_the_rest_fits(world: World) -> None:
    too_long = {
        "error": {"code": 400, "type": "exceed_context_size_error", "message": "!", "n_prompt_tokens": 40, "n_ctx": 20}
    }
    items = [{"role": role, "content": f"{n} " + "x" * 100} for n in range(4) for role in ("user", "assistant")]
    items = [{"role": "system", "content": "S"}, *items, {"role": "user", "content": "last"}]
    world.engine.refusals = [(400, too_long)]
    refused = await world.create(input=items)
    assert refused.status == 400
    for times, left in ((1, ["S", "3", "3", "last"]), (2, ["S", "last"])):
        world.engine.refusals = [(400, too_long)] * times
        assert (await world.made(input=items, truncation="auto"))["truncation"] == "auto"
        assert [message["content"].split()[0] for message in world.engine.asked[-1]["messages"]] == left
    world.engine.refusals = [(400, too_long)] * 20
    assert (await world.create(input=items, truncation="auto")).status == 400


# --- in the background


async def test_a_background_response_is_watched_from_anywhere_and_found_afterwards(world: World) -> None:
    world.engine.go.clear()
    made = await world.made(background=True)
    assert (made["status"], made["background"]) == ("queued", True)
    running = await world.until(made["id"], "in_progress")
    watching = asyncio.ensure_future(world.get(made["id"], "?stream=true"))
    async with asyncio.timeout(5):
        while not (running := (await world.get(made["id"])).json())["output"]:
            await asyncio.sleep(0)
    assert running["output"][0]["content"][0]["text"] == "Hello"
    assert (await world.get(made["id"], "/input_items")).json()["data"][0]["content"][0]["text"] == "Hi"
    world.engine.go.set()
    final = await world.until(made["id"], "completed")
    watched = parse_events((await watching).body)
    assert check_events(watched) == final
    again = await world.get(made["id"], "?stream=true&starting_after=4")
    assert parse_events(again.body) == watched[5:]
    assert (await world.call("POST", f"/v1/responses/{made['id']}/cancel")).json() == final


async def test_a_background_response_can_be_streamed_at_once(world: World) -> None:
    answer = await world.create(background=True, stream=True)
    events = parse_events(answer.body)
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert check_events(events)["status"] == "completed"


async def test_a_background_response_is_cancelled(world: World) -> None:
    world.engine.go.clear()
    name = (await world.made(background=True))["id"]
    async with asyncio.timeout(5):
        while not (await world.get(name)).json()["output"]:
            await asyncio.sleep(0)
    cancelled = (await world.call("POST", f"/v1/responses/{name}/cancel")).json()
    assert (cancelled["status"], cancelled["output_text"]) == ("cancelled", "Hello")
    assert world.engine.left == 1
    assert (await world.get(name)).json() == cancelled


async def test_a_background_response_that_is_deleted_is_cancelled_first(world: World) -> None:
    world.engine.go.clear()
    name = (await world.made(background=True))["id"]
    assert (await world.call("DELETE", f"/v1/responses/{name}")).status == 200
    assert (await world.get(name)).status == 404
    assert world.store.kept == {}


async def test_only_background_responses_are_cancelled_or_streamed_again(world: World) -> None:
    name = (await world.made())["id"]
    for answer in (
        await world.call("POST", f"/v1/responses/{name}/cancel"),
        await world.get(name, "?stream=true"),
    ):
        assert answer.status == 400
        assert "background" in answer.json()["error"]["message"]
    background = (await world.made(background=True))["id"]
    await world.until(background, "completed")
    assert (await world.get(background, "?stream=true&starting_after=x")).status == 400


async def test_a_background_response_that_is_refused_has_failed(world: World) -> None:
    world.engine.refusals = [(400, {"error": {"message": "no such thing"}})]
    made = await world.made(background=True)
    assert (await world.until(made["id"], "failed"))["error"]["message"] == "no such thing"


async def test_a_service_that_stops_leaves_its_background_responses_failed() -> None:
    async with make_world() as world:
        world.engine.go.clear()
        name = (await world.made(background=True))["id"]
        await world.until(name, "in_progress")
        store = world.store
    _, kept = store.kept[name]
    assert kept.finished
    assert json.loads(kept.document)["status"] == "failed"


async def test_a_response_whose_service_died_is_failed_once_it_was_silent_for_long(world: World) -> None:
    document = json.dumps({"id": "resp_x", "status": "in_progress", "background": True}).encode()
    kept = KeptResponse(id="resp_x", document=document, finished=False, written=world.clock.time())
    await world.store.keep(kept)
    assert (await world.get("resp_x")).json()["status"] == "in_progress"
    await world.clock.advance(31)
    found = (await world.get("resp_x")).json()
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")


async def test_a_background_response_tells_that_it_is_alive(world: World) -> None:
    world.engine.go.clear()
    name = (await world.made(background=True))["id"]
    await world.until(name, "in_progress")
    before = world.store.kept[name][1].written
    await world.clock.advance(10)
    assert world.store.kept[name][1].written == before + 10
    await world.call("POST", f"/v1/responses/{name}/cancel")


async def test_a_service_that_stores_nothing_says_so() -> None:
    async with make_world(stateless=True) as world:
        made = await world.made()
        assert made["store"] is False
        assert (await world.get(made["id"])).status == 404
        for options in ({"background": True}, {"previous_response_id": made["id"]}):
            answer = await world.create(**options)
            assert answer.status == 400
            assert "DMR_RESPONSES_TTL" in answer.json()["error"]["message"]
