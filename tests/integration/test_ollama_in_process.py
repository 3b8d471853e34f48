"""Ollama's API on an engine that says what a test wants, over the whole service in one process."""

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
from dmr_core.domain.capability import Capabilities, TokenCounter
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.engine import FakeEngine, FakeRunningEngine, fake_backend
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.package_source import InMemoryPackageSource
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import Answer as UpstreamAnswer
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.integration.test_in_process import artifact

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
TIMINGS = {"prompt_ms": 1.5, "predicted_ms": 2.25}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
HELLO = [{"role": "user", "content": "Hi"}]
TABLE = Capabilities(
    fields={
        "/v1/chat/completions": frozenset(
            {"messages", "model", "stream", "stream_options", "temperature", "max_tokens"}
        )
        | {
            "tools",
            "response_format",
            "stop",
            "chat_template_kwargs",
            "repetition_penalty",
            "logprobs",
            "top_logprobs",
        },
        "/infill": frozenset({"input_prefix", "input_suffix", "n_predict", "stream"}),
    },
    counter=TokenCounter.TEMPLATE,
)


@attrs.define(eq=False)
class ScriptedEngine(FakeEngine):
    """Says ``deltas`` in a stream and ``message`` whole; ``asked`` are the paths and bodies it was sent, chats first.

    A ``refusal`` is a status and a document. ``go`` can be cleared to hold a stream after its first chunk. A ``broken``
    stream ends in the middle, and one with a ``failure`` with an error of the engine's.
    """

    deltas: list[dict[str, Any]] = attrs.field(factory=lambda: [{"content": "Hello"}, {"content": " there"}])
    message: dict[str, Any] = attrs.field(factory=lambda: {"content": "Hello there"})
    reason: str = "stop"
    asked: list[tuple[str, Any]] = attrs.field(factory=list)
    refusal: tuple[int, Any] | None = None
    go: asyncio.Event = attrs.field(factory=asyncio.Event)
    broken: bool = False
    failure: Any = None
    left: int = 0

    async def _answer(self, running: FakeRunningEngine, request: UpstreamRequest) -> UpstreamAnswer:
        if request.path == self.health_path:
            return UpstreamAnswer(200, body=b"{}")
        body = json.loads(request.body)
        if request.path == "/apply-template":
            return _json({"prompt": "".join(f"<{one['role']}>{one['content']}" for one in body["messages"])})
        if request.path == "/tokenize":
            if "prompt" in body or "messages" in body:  # vLLM's
                text = body.get("prompt") or "".join(one["content"] for one in body.get("messages", ()))
                tokens = list(text.encode())
                return _json({"count": len(tokens), "max_model_len": 100, "tokens": tokens})
            return _json({"tokens": list(body["content"].encode())})
        self.asked.append((request.path, body))
        if self.refusal is not None:
            return _json(self.refusal[1], self.refusal[0])
        if request.path == "/v1/embeddings":
            rows = [{"index": n, "embedding": [3.0, 4.0, 0.0]} for n, _ in enumerate(body["input"])]
            return _json({"data": rows[::-1], "usage": {"prompt_tokens": 7}})
        if body.get("stream"):
            return UpstreamAnswer(200, ((b"content-type", b"text/event-stream"),), self._chunks(request.path))
        if request.path == "/infill":
            return _json(
                {"content": "mid", "stop": True, "stop_type": "limit", "timings": {**TIMINGS, "predicted_n": 2}}
            )
        if request.path == "/v1/completions":
            return _json({"choices": [{"text": "Hello there", "finish_reason": self.reason}], "usage": USAGE})
        choice = {"index": 0, "message": {"role": "assistant", **self.message}, "finish_reason": self.reason}
        return _json({"choices": [choice], "usage": USAGE, "timings": TIMINGS})

    async def _chunks(self, path: str) -> AsyncGenerator[bytes, None]:
        try:
            yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
            for number, delta in enumerate(self.deltas):
                if number == 1:
                    await self.go.wait()
                said = {"text": delta.get("content", "")} if path == "/v1/completions" else {"delta": delta}
                yield _event({"choices": [{"index": 0, **said}]})
            if self.failure is not None:
                yield _event(self.failure)
            if self.broken:
                return
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": self.reason}]})
            yield _event({"choices": [], "usage": USAGE, "timings": TIMINGS})
            yield b"data: [DONE]\n\n"
        except (GeneratorExit, asyncio.CancelledError):
            self.left += 1
            raise


def _json(value: Any, status: int = 200) -> UpstreamAnswer:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return UpstreamAnswer(status, ((b"content-type", b"application/json"),), content)


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@attrs.frozen
class World:
    service: Service
    engine: ScriptedEngine
    store: InMemoryModelStore
    clock: FakeClock

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def post(self, path: str, /, **body: Any) -> Answer:
        return await self.call("POST", path, {"model": "one", **body})

    async def chat(self, **body: Any) -> Answer:
        return await self.post("/api/chat", **{"messages": HELLO, "stream": False, **body})

    async def asked(self, path: str, **body: Any) -> tuple[str, Any]:
        """What the engine was asked for this."""
        answer = await self.post(path, **{"stream": False, **body})
        assert answer.status == 200, answer.text
        return self.engine.asked[-1]


@asynccontextmanager
async def make_world(*, capabilities: Capabilities | None = TABLE, **changes: Any) -> AsyncIterator[World]:
    transport, registry, clock, store = InMemoryTransport(), InMemoryRegistry(), FakeClock(), InMemoryModelStore()
    engine = ScriptedEngine(transport)
    engine.go.set()
    told: dict[str, Any] = {} if capabilities is None else {"capabilities": lambda: capabilities}
    overrides = Overrides(
        store=store,
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        metrics=InMemoryMetrics(),
        clock=clock,
        package_source=InMemoryPackageSource(),
        entry_points=(),
        backends=(fake_backend(engine, **told),),
    )
    settings = Settings(models_path=Path("/nowhere"), max_runners=2, max_body=65536, health_interval=0, **changes)
    made, weights = artifact(b"ai/one")
    registry.seed(parse_reference("ai/one", ReferencePolicy()), made, [weights])
    async with open_service(settings, overrides) as service:
        pulled = await call(service.app, "POST", "/api/pull", {"model": "one", "stream": False})
        assert pulled.json() == {"status": "success"}
        yield World(service, engine, store, clock)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


def lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines()]


# --- what engines are asked


async def test_every_field_reaches_the_engine_under_its_name_there(world: World) -> None:
    path, body = await world.asked(
        "/api/chat",
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "What is this?", "images": ["iVBORw0KGgo=", "data:image/gif;base64,R0lG"]},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_name": "weather"},
        ],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        format={"type": "object"},
        think="low",
        logprobs=True,
        top_logprobs=2,
        options={"temperature": 0.5, "num_predict": 7, "stop": "x", "repeat_penalty": 1.5},
    )
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "one",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                    {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lG"}},
                ],
            },
            {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"},
        ],
        "tools": [
            {"type": "function", "function": {"description": "", "name": "weather", "parameters": {"type": "object"}}}
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "format", "schema": {"type": "object"}, "strict": True},
        },
        "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"},
        "logprobs": True,
        "top_logprobs": 2,
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["x"],
        "repetition_penalty": 1.5,
    }


@pytest.mark.parametrize(
    ("asked", "path", "expected"),
    [
        ({"prompt": "Hi"}, "/v1/chat/completions", {"messages": HELLO}),
        (
            {"prompt": "Hi", "system": "S"},
            "/v1/chat/completions",
            {"messages": [{"role": "system", "content": "S"}, *HELLO]},
        ),
        ({"prompt": "Hi", "raw": True}, "/v1/completions", {"prompt": "Hi"}),
        ({"prompt": "Hi", "template": "<{{ .Prompt }}>{{ .Response }}!"}, "/v1/completions", {"prompt": "<Hi>"}),
        ({"prompt": "Hi", "context": [1, 2]}, "/v1/completions", {"prompt": [1, 2, *b"<user>Hi"]}),
        ({"prompt": "a", "suffix": "b"}, "/infill", {"input_prefix": "a", "input_suffix": "b", "prompt": ""}),
        ({"prompt": "a", "raw": True, "format": "json"}, "/v1/completions", {"json_schema": {"type": "object"}}),
        ({"prompt": "a", "suffix": "b", "options": {"num_predict": 3}}, "/infill", {"n_predict": 3}),
    ],
)
async def test_prompts_go_where_they_belong(world: World, asked: Any, path: str, expected: Any) -> None:
    found, body = await world.asked("/api/generate", **asked)
    assert (path, expected) == (found, {key: body.get(key) for key in expected})


async def test_what_has_no_place_is_named_and_refused_to_the_strict(world: World) -> None:
    body = {"nonsense": 1, "options": {"num_gpu": 1, "mirostat": 1, "num_ctx": 10}, "truncate": True}
    answer = await world.chat(**body)
    assert answer.headers["dmr-ignored"] == "nonsense, options.num_gpu, options.mirostat, truncate"
    asked = {"model": "one", "messages": HELLO, **body}
    refused = await world.call("POST", "/api/chat", asked, headers=[("dmr-strict", "1")])
    assert (400, ["error"]) == (refused.status, list(refused.json()))
    assert "'nonsense'" in refused.json()["error"]


async def test_a_strict_answer_is_held_to_its_schema(world: World) -> None:
    body = {"model": "one", "messages": HELLO, "stream": False, "format": {"type": "object"}}
    answer = await world.call("POST", "/api/chat", body, headers=[("dmr-strict", "1")])
    assert (502, ["error"]) == (answer.status, list(answer.json()))
    world.engine.message = {"content": "{}"}
    answer = await world.call("POST", "/api/chat", body, headers=[("dmr-strict", "1")])
    assert (200, "{}") == (answer.status, answer.json()["message"]["content"])


async def test_a_larger_context_is_the_models_from_then_on(world: World) -> None:
    await world.call("POST", "/engines/_configure", {"model": "one", "keep_alive": "1h"})
    answer = await world.chat(options={"num_ctx": 4096})
    assert "dmr-clamped" not in answer.headers
    configured = (await world.call("GET", "/engines/_configure")).json()
    assert [entry["Config"] for entry in configured] == [{"context-size": 4096, "keep_alive": "1h0m0s"}]
    await world.chat(options={"num_ctx": 128})
    assert (await world.call("GET", "/engines/_configure")).json() == configured


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": 2},
        {"num_predict": -3},
        {"num_predict": 1.5},
        {"num_predict": 1 << 40},
        {"stop": [1]},
        {"stop": ["x"] * 300},
        {"num_ctx": "many"},
        {"seed": 1e300},
        {"keep_alive": True},
    ],
)
async def test_options_out_of_bounds_are_refused(world: World, options: Any) -> None:
    for path in ("/api/chat", "/api/generate"):
        answer = await world.post(path, messages=HELLO, prompt="Hi", options=options)
        assert (400, ["error"]) == (answer.status, list(answer.json()))
    assert not world.engine.asked


@pytest.mark.parametrize("image", ["http://127.0.0.1/x.png", "https://example.com/x.png", " " * 5000 + "http://x/"])
async def test_images_elsewhere_are_not_fetched(world: World, image: str) -> None:
    for path in ("/api/chat", "/api/generate"):
        messages = [{"role": "user", "content": "x", "images": [image]}]
        answer = await world.post(path, messages=messages, prompt="x", images=[image])
        assert answer.status == 400
        assert "not fetched" in answer.json()["error"]


# --- what clients hear


async def test_an_answer_has_the_engines_figures(world: World) -> None:
    said = (await world.chat()).json()
    assert said.pop("created_at").endswith("Z")
    assert said.pop("total_duration") >= 0
    assert said == {
        "model": "one",
        "message": {"role": "assistant", "content": "Hello there"},
        "done": True,
        "done_reason": "stop",
        "load_duration": 0,
        "prompt_eval_count": 3,
        "prompt_eval_duration": 1_500_000,
        "eval_count": 2,
        "eval_duration": 2_250_000,
    }


async def test_a_stream_is_lines_that_say_something(world: World) -> None:
    answer = await world.post("/api/chat", messages=HELLO)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "server-timing" in answer.headers
    found = lines(answer)
    assert ["Hello", " there", ""] == [line["message"]["content"] for line in found]
    assert [False, False, True] == [line["done"] for line in found]
    assert found[-1]["eval_duration"] == 2_250_000
    assert len(answer.parts) == 3


async def test_thoughts_and_calls(world: World) -> None:
    world.engine.deltas = [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"ci'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ty":"Bonn"}'}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "time", "arguments": "{}"}}]},
    ]
    world.engine.reason = "tool_calls"
    found = lines(await world.post("/api/chat", messages=HELLO))
    first = {"id": "c1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Bonn"}}}
    second = {"id": "c2", "function": {"index": 1, "name": "time", "arguments": {}}}
    messages = [line["message"] for line in found]
    assert messages[0] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert [message["tool_calls"] for message in messages if "tool_calls" in message] == [[first], [second]]
    assert found[-1]["done_reason"] == "stop"
    world.engine.message = {"content": "", "tool_calls": [CALL], "reasoning_content": "hm"}
    whole = (await world.chat(think=False)).json()["message"]
    assert whole == {"role": "assistant", "content": "", "tool_calls": [first]}


async def test_a_call_that_is_no_json_is_an_error(world: World) -> None:
    world.engine.deltas = [{"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "oops"}}]}]
    assert "no JSON object" in lines(await world.post("/api/chat", messages=HELLO))[-1]["error"]
    world.engine.reason = "length"
    cut = lines(await world.post("/api/chat", messages=HELLO))
    assert (len(cut), cut[-1]["done_reason"]) == (1, "length")


async def test_a_stream_that_breaks_ends_with_an_error(world: World) -> None:
    world.engine.broken = True
    found = lines(await world.post("/api/generate", prompt="Hi"))
    assert "in the middle" in found[-1]["error"]
    world.engine.failure = {"error": {"message": "no more memory", "code": 500}}
    found = lines(await world.post("/api/chat", messages=HELLO))
    assert found[-1] == {"error": "no more memory"}
    assert found[0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(
    ("refusal", "status", "message"),
    [
        ((400, {"error": {"message": "too long", "type": "x"}}), 400, "too long"),
        ((404, {"error": "nothing"}), 404, "nothing"),
        ((500, b"<html>"), 500, "<html>"),
        ((500, {"error": {"message": "image input is not supported"}}), 400, "image input is not supported"),
        ((400, {}), 400, "the engine answered with status 400"),
    ],
)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])
async def test_what_an_engine_refuses(world: World, path: str, refusal: Any, status: int, message: str) -> None:
    world.engine.refusal = refusal
    answer = await world.post(path, messages=HELLO, prompt="Hi", input="Hi")
    assert (status, {"error": message}) == (answer.status, answer.json())
    assert answer.headers["content-type"] == "application/json"


async def test_a_client_that_leaves_ends_the_engines_work(world: World) -> None:
    world.engine.go.clear()
    await world.call("POST", "/api/chat", {"model": "one", "messages": HELLO}, leave_after=1)
    assert world.engine.left == 1
    assert not [view for view in world.service.services.scheduler.runners() if view.leases]


async def test_generate_tells_the_context_where_the_engine_can(world: World) -> None:
    said = (await world.post("/api/generate", prompt="Hi", stream=False)).json()
    assert said["context"] == [*b"<user>Hi", *b"Hello there"]
    assert "context" not in (await world.post("/api/generate", prompt="Hi", raw=True, stream=False)).json()
    found = lines(await world.post("/api/generate", prompt="Hi", context=[1]))
    assert found[-1]["context"] == [1, *b"<user>Hi", *b"Hello there"]


async def test_what_an_engine_without_a_table_cannot_do() -> None:
    async with make_world(capabilities=None) as world:
        assert "context" not in (await world.post("/api/generate", prompt="Hi", stream=False)).json()
        for body in ({"context": [1]}, {"suffix": "x"}):
            answer = await world.post("/api/generate", prompt="Hi", **body)
            assert (422, ["error"]) == (answer.status, list(answer.json()))


async def test_an_engine_that_counts_as_vllm_does_is_told_where_the_context_ends() -> None:
    async with make_world(capabilities=Capabilities(counter=TokenCounter.TOKENIZE)) as world:
        assert (await world.asked("/api/generate", prompt="Hello", raw=True))[1]["max_tokens"] == 95
        assert (await world.asked("/api/generate", prompt="Hello", raw=True, options={"num_predict": 3}))[1][
            "max_tokens"
        ] == 3
        _, body = await world.asked("/api/generate", prompt="Hi", context=[1, 2, 3])
        assert (body["prompt"], body["max_tokens"]) == ([1, 2, 3, *b"Hi"], 95)
        answer = await world.post("/api/generate", prompt="Hi", stream=False)
        assert answer.json()["context"] == [*b"Hi", *b"Hello there"]
        assert (await world.asked("/api/embed", input="x"))[1]["truncate_prompt_tokens"] == -1


async def test_a_middle(world: World) -> None:
    said = (await world.post("/api/generate", prompt="a", suffix="b", stream=False)).json()
    assert ("mid", "length", 2) == (said["response"], said["done_reason"], said["eval_count"])
    world.engine.refusal = (501, {"error": {"message": "Infill is not supported by this model"}})
    answer = await world.post("/api/generate", prompt="a", suffix="b")
    assert (400, True) == (answer.status, "does not support insert" in answer.json()["error"])


async def test_nothing_to_say_loads_or_unloads(world: World) -> None:
    for path, said in (("/api/generate", "response"), ("/api/chat", "message")):
        loaded = await world.post(path, keep_alive="1h")
        assert loaded.json()["done_reason"] == "load"
        assert said in loaded.json()
        (runner,) = (await world.call("GET", "/api/ps")).json()["models"]
        assert (runner["name"], runner["expires_at"][:4]) == ("one", "2023")
        assert (await world.post(path, keep_alive=0)).json()["done_reason"] == "unload"
        assert (await world.call("GET", "/api/ps")).json() == {"models": []}
    assert not world.engine.asked
    await world.post("/api/chat", keep_alive=-1)
    (runner,) = (await world.call("GET", "/api/ps")).json()["models"]
    assert runner["expires_at"] == "0001-01-01T00:00:00Z"
    assert (await world.call("POST", "/api/chat", {"model": "nope", "keep_alive": 0})).status == 404


# --- vectors


async def test_vectors(world: World) -> None:
    answer = (await world.post("/api/embed", input=["a", "b"], dimensions=2)).json()
    assert (answer["embeddings"], answer["prompt_eval_count"]) == ([[0.6, 0.8]] * 2, 7)
    assert (await world.post("/api/embeddings", prompt="a")).json() == {"embedding": [3.0, 4.0, 0.0]}
    assert (await world.post("/api/embeddings", prompt="")).json() == {"embedding": []}
    assert (await world.post("/api/embed", input="")).json()["embeddings"] == []
    told = await world.post("/api/embed", input="a", options={"temperature": 1}, dimensions=1)
    assert (told.headers["dmr-ignored"], told.headers["dmr-emulated"]) == ("options.temperature", "dimensions")


# --- models


async def test_errors_of_models_have_their_status(world: World) -> None:
    for method, path, body, status in (
        ("POST", "/api/show", {"model": "nope"}, 404),
        ("DELETE", "/api/delete", {"model": "nope"}, 404),
        ("POST", "/api/copy", {"source": "nope", "destination": "x"}, 404),
        ("POST", "/api/copy", {"source": "one"}, 400),
        ("POST", "/api/copy", {"source": "one", "destination": "A B"}, 400),
        ("POST", "/api/pull", {"model": "nope"}, 404),
        ("POST", "/api/pull", {"model": "nope", "stream": False}, 404),
        ("POST", "/api/push", {"model": "nope"}, 404),
        ("POST", "/api/create", {"model": "x"}, 400),
        ("POST", "/api/create", {"model": "x", "from": "nope"}, 404),
        ("POST", "/api/create", {"model": "x", "from": "one", "quantize": "q4_0"}, 422),
        ("POST", "/api/create", {"model": "x", "files": {"a.gguf": "sha256:" + "0" * 64}}, 404),
        ("POST", "/api/create", {"model": "x", "files": {"../a": "sha256:x"}}, 400),
        ("POST", "/api/chat", {"messages": HELLO}, 400),
        ("POST", "/api/chat", {"model": "nope", "messages": HELLO}, 404),
        ("POST", "/api/embed", {"model": "nope", "input": "x"}, 404),
        ("POST", "/api/nothing", {}, 404),
        ("GET", "/api/show", b"", 405),
        ("POST", "/api/blobs/x", b"", 400),
    ):
        answer = await world.call(method, path, body)
        assert (status, ["error"]) == (answer.status, list(answer.json())), (path, body, answer.text)


async def test_a_busy_model_is_not_deleted(world: World) -> None:
    world.engine.go.clear()
    chat = asyncio.ensure_future(world.post("/api/chat", messages=HELLO))
    while not world.engine.asked:
        await asyncio.sleep(0)
    answer = await world.call("DELETE", "/api/delete", {"model": "one"})
    assert (409, ["error"]) == (answer.status, list(answer.json()))
    world.engine.go.set()
    await chat
    assert (await world.call("DELETE", "/api/delete", {"model": "one"})).json() == {}
    assert (await world.call("GET", "/api/tags")).json() == {"models": []}


async def test_a_model_made_of_another(world: World) -> None:
    made = await world.call(
        "POST",
        "/api/create",
        {
            "model": "my/own",
            "from": "one",
            "system": "Be kind.",
            "parameters": {"temperature": 0.25},
            "messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}],
            "template": "{{ if .System }}S:{{ .System }};{{ end }}U:{{ .Prompt }};A:{{ .Response }};",
        },
    )
    assert [line["status"] for line in lines(made)][-1] == "success"
    answer = await world.call("POST", "/api/chat", {"model": "my/own", "messages": HELLO, "stream": False})
    assert answer.status == 200
    path, body = world.engine.asked[-1]
    assert (path, body["prompt"]) == ("/v1/completions", "S:Be kind.;U:A;A:B;U:Hi;A:")
    assert body["temperature"] == 0.25
    shown = (await world.call("POST", "/api/show", {"model": "my/own"})).json()
    assert "MESSAGE assistant" in shown["modelfile"]
    assert shown["parameters"].split() == ["temperature", "0.25"]


async def test_a_model_does_not_have_engines_fetch_what_its_maker_likes(world: World) -> None:
    messages = [{"role": "user", "content": "A", "images": [" http://169.254.169.254/", "iVBORw0KGgo="]}]
    await world.call("POST", "/api/create", {"model": "my/own", "from": "one", "messages": messages})
    await world.call("POST", "/api/chat", {"model": "my/own", "messages": HELLO, "stream": False})
    sent = world.engine.asked[-1][1]["messages"][0]["content"]
    assert [part.get("image_url", {}).get("url", "")[:15] for part in sent] == ["", "data:image/png;"]


async def test_a_model_made_of_a_blob_that_was_sent(world: World) -> None:
    content = b"weights"
    digest = Digest.of(content)
    assert (await world.call("HEAD", f"/api/blobs/{digest}")).status == 404
    assert (await world.call("POST", f"/api/blobs/{Digest.of(b'x')}", content)).status == 400
    assert (await world.call("POST", f"/api/blobs/{digest}", content)).status == 201
    assert (await world.call("HEAD", f"/api/blobs/{digest}")).status == 200
    world.store.blobs[digest] = content[:1]  # as a copy that was cut short
    assert (await world.call("POST", f"/api/blobs/{digest}", content)).status == 201
    assert world.store.blobs[digest] == content
    assert digest in world.store.leased


async def test_the_older_word_for_a_model_wins(world: World) -> None:
    answer = await world.call("POST", "/api/chat", {"name": "one", "model": "nope", "messages": HELLO, "stream": False})
    assert (200, "one") == (answer.status, answer.json()["model"])


async def test_that_it_runs(world: World) -> None:
    ollama = [("user-agent", "ollama/0.13 (amd64 linux)")]
    assert (await world.call("GET", "/", headers=ollama)).text == "Ollama is running"
    assert (await world.call("GET", "/")).text == "Docker Model Runner is running"
    assert (await world.call("GET", "/api")).text == "Ollama is running"
    assert set((await world.call("GET", "/api/version")).json()) == {"version"}
