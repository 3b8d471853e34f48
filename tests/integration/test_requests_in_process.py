"""The recorder and the answer's notes, over the whole service in one process."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Self

import attrs
import pytest
from starlette.types import Message

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.errors import EngineBackoffError, QueueFullError, UpstreamError
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import Answer as FakeAnswer
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.integration.test_in_process import artifact

STOCK = [("user-agent", "docker-model-cli/v1.0")]
EVENTS = [("accept", "text/event-stream")]


@attrs.frozen
class World:
    service: Service
    engine: FakeEngine
    metrics: InMemoryMetrics
    transport: InMemoryTransport

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def chat(self, model: str, text: str, path: str = "/v1/chat/completions", **options: Any) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **options.pop("body", {})}
        return await self.call("POST", path, body, **options)

    async def records(self, query: str = "") -> list[dict[str, Any]]:
        entries = (await self.call("GET", f"/engines/requests{query}")).json()
        return [record for entry in entries for record in entry["records"]]


async def opened(settings: Settings) -> AsyncGenerator[World, None]:
    transport, registry, metrics = InMemoryTransport(), InMemoryRegistry(), InMemoryMetrics()
    engine = FakeEngine(transport)
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        metrics=metrics,
        entry_points=(),
        backends=(fake_backend(engine),),
    )
    async with open_service(settings, overrides) as service:
        world = World(service, engine, metrics, transport)
        for name in ("one", "two"):
            made, weights = artifact(name.encode())
            registry.seed(parse_reference(name, ReferencePolicy()), made, [weights])
            await world.call("POST", "/models/create", {"from": name})
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async for made in opened(Settings(models_path=Path("/nowhere"), max_runners=2)):
        yield made


@pytest.fixture
async def silent_world() -> AsyncIterator[World]:
    async for made in opened(Settings(models_path=Path("/nowhere"), record_requests=False)):
        yield made


@attrs.define
class Watcher:
    """A client of the event stream. ``events`` are what came so far."""

    app: Any
    query: str = ""
    events: list[str] = attrs.field(factory=list)
    incoming: asyncio.Queue[Message] = attrs.field(factory=asyncio.Queue)
    news: asyncio.Event = attrs.field(factory=asyncio.Event)
    reads: asyncio.Event = attrs.field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/engines/requests",
            "query_string": self.query.encode(),
            "headers": [(b"host", b"localhost"), (b"accept", b"text/event-stream")],
            "server": ("127.0.0.1", 80),
        }
        self.reads.set()
        self.task = asyncio.ensure_future(self.app(scope, self.incoming.get, self._take))
        await self.until(lambda: any("connected" in event for event in self.events))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})
        assert self.task is not None
        async with asyncio.timeout(5):
            await self.task

    async def until(self, reached: Any) -> None:
        """Wait for events."""
        async with asyncio.timeout(5):
            while not reached():
                self.news.clear()
                await self.news.wait()

    def told(self, name: str) -> list[dict[str, Any]]:
        """The records in events of one kind."""
        pattern = re.compile(rf"event: {name}\ndata: (.*)\n\n")
        return [
            entry["records"][0]
            for event in self.events
            if (found := pattern.fullmatch(event))
            for entry in json.loads(found[1])
        ]

    async def _take(self, message: Message) -> None:
        await self.reads.wait()
        if message.get("body"):
            self.events.append(bytes(message["body"]).decode())
        self.news.set()


# --- the list


async def test_requests_are_listed_with_their_answers(world: World) -> None:
    await world.chat("one", "hello there", headers=[("user-agent", "me"), ("x-request-id", "r1")])
    (entry,) = (await world.call("GET", "/engines/requests")).json()
    (model,) = [model for model in (await world.call("GET", "/models")).json() if "ai/one" in model["tags"][0]]
    (record,) = entry["records"]

    assert (entry["count"], entry["model"], entry["config"]) == (1, model["id"], {"context-size": 64})
    assert record["id"].startswith(f"{model['id']}_")
    assert ("one", "POST", "/v1/chat/completions", 200) == (
        record["model"],
        record["method"],
        record["url"],
        record["status_code"],
    )
    assert json.loads(record["request"])["messages"][0]["content"] == "hello there"
    assert json.loads(record["response"])["choices"][0]["message"]["content"] == "hello there"
    assert ("me", "r1") == (record["user_agent"], record["request_id"])
    assert "error" not in record


async def test_streamed_answers_are_put_together(world: World) -> None:
    await world.chat("one", "hello there", body={"stream": True})
    (record,) = await world.records()

    assert json.loads(record["response"])["choices"][0]["message"]["content"] == "hello there "


async def test_neither_media_nor_secrets_are_shown(world: World) -> None:
    payload = "QUJD" * 100
    await world.chat("one", f"data:image/png;base64,{payload} and sk-abcdefghijklmnop123")
    (record,) = await world.records()

    assert payload not in str(record)
    assert "sk-abc" not in str(record)
    assert "data:image/png;base64,...[truncated 400 chars] and ***" in record["request"]
    assert "data:image/png;base64,...[truncated 400 chars] and ***" in record["response"]


async def test_the_list_can_be_of_one_model_by_any_of_its_names(world: World) -> None:
    await world.chat("one", "a")
    await world.chat("docker.io/ai/one:latest", "b")
    await world.chat("two", "c")
    (model,) = [model for model in (await world.call("GET", "/models")).json() if "ai/one" in model["tags"][0]]

    for name in ("one", "ai/one:latest", model["id"]):
        assert ["one", "docker.io/ai/one:latest"] == [r["model"] for r in await world.records(f"?model={name}")]
    assert [] == await world.records("?model=nope")
    assert 3 == len(await world.records())


async def test_records_outlive_their_runner_and_their_model(world: World) -> None:
    await world.chat("one", "a")
    await world.call("POST", "/engines/unload", {"all": True})
    assert len(await world.records()) == 1

    await world.call("DELETE", "/models/one")
    assert len(await world.records("?model=one")) == 1


async def test_what_never_reached_an_engine_is_not_recorded(world: World) -> None:
    await world.chat("nope", "a")
    await world.call("POST", "/v1/chat/completions", b"{")
    await world.call("POST", "/v1/chat/completions", {"model": "one"}, headers=[("x-preload-only", "true")])

    assert [] == await world.records()


async def test_stored_settings_are_shown(world: World) -> None:
    await world.call("POST", "/engines/_configure", {"model": "one", "runtime-flags": ["--temp", "1"]})
    await world.chat("one", "a")
    (entry,) = (await world.call("GET", "/engines/requests")).json()

    assert {"context-size": 64, "runtime-flags": ["--temp", "1"]} == entry["config"]


async def test_an_engine_that_dies_in_mid_answer_is_an_error_not_an_answer(world: World) -> None:
    await world.chat("one", "load")

    async def events() -> AsyncGenerator[bytes, None]:
        yield b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n'
        world.engine.started[0].crash(-9)
        raise UpstreamError("the engine broke off")

    async def answer(_request: UpstreamRequest) -> FakeAnswer:
        return FakeAnswer(200, ((b"content-type", b"text/event-stream"),), events())

    world.transport.serve(world.engine.started[0].endpoint, answer)
    await world.chat("one", "x", body={"stream": True})
    record = (await world.records())[-1]
    error = json.loads(record["error"])

    assert "response" not in record
    assert (502, 502) == (record["status_code"], error["status_code"])
    assert "killed by signal 9" in error["message"]


async def test_a_client_that_leaves_is_told_so_and_nothing_goes_on(world: World) -> None:
    await world.chat("one", "word " * 500, body={"stream": True}, leave_after=2)
    (record,) = await world.records()

    assert record["abandoned"]
    content = json.loads(record["response"])["choices"][0]["message"]["content"]
    assert "word word" in content
    assert len(content) < 500
    assert world.transport.open_responses == set()
    assert [0] == [view.leases for view in world.service.services.scheduler.runners()]


async def test_a_request_under_way_is_listed_without_an_answer(world: World) -> None:
    await world.chat("one", "load")
    held = asyncio.Event()

    async def answer(_request: UpstreamRequest) -> FakeAnswer:
        await held.wait()
        return FakeAnswer(200, body=b"{}")

    world.transport.serve(world.engine.started[0].endpoint, answer)
    asked = asyncio.ensure_future(world.chat("one", "x"))
    while len(await world.records()) < 2:
        await asyncio.sleep(0)
    record = (await world.records())[-1]
    assert 0 == record["status_code"]
    assert not {"response", "error"} & set(record)
    async with Watcher(world.service.app, "include_existing=true") as watcher:
        held.set()
        assert (await asked).status == 200
        await watcher.until(lambda: watcher.told("new_request"))
        assert ["load", "x"] == [
            json.loads(told["request"])["messages"][0]["content"]
            for told in (*watcher.told("existing_request"), *watcher.told("new_request"))
        ]


async def test_recording_can_be_switched_off(silent_world: World) -> None:
    await silent_world.chat("one", "a")
    answer = await silent_world.call("GET", "/engines/requests")

    assert 404 == answer.status
    assert "DMR_RECORD_REQUESTS=1" in answer.text


# --- the stream


async def test_the_stream_tells_what_is_there_then_that_it_listens_then_what_comes(world: World) -> None:
    await world.chat("one", "before")
    async with Watcher(world.service.app, "include_existing=true") as watcher:
        await world.chat("one", "after")
        await watcher.until(lambda: watcher.told("new_request"))
        assert 'event: connected\ndata: {"status": "connected"}\n\n' == watcher.events[1]
        assert "before" in watcher.told("existing_request")[0]["request"]
        assert "after" in watcher.told("new_request")[0]["request"]


async def test_the_stream_is_of_one_model_by_any_of_its_names(world: World) -> None:
    await world.chat("two", "before")
    async with Watcher(world.service.app, "include_existing=true&model=ai/one:latest") as watcher:
        await world.chat("two", "no")
        await world.chat("one", "yes")
        await watcher.until(lambda: watcher.told("new_request"))
        assert ["one"] == [record["model"] for record in watcher.told("new_request")]
        assert [] == watcher.told("existing_request")


async def test_a_quiet_stream_is_kept_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr_adapters.http.api.requests._PING_EVERY", 0.01)
    async with Watcher(world.service.app) as watcher:
        await watcher.until(lambda: watcher.events.count(": ping\n\n") >= 2)


async def test_lines_are_short_enough_for_every_client(world: World) -> None:
    async with Watcher(world.service.app) as watcher:
        await world.chat("one", "\x00ab é" * 30_000)
        await watcher.until(lambda: watcher.told("new_request"))
        assert max(map(len, watcher.events)) <= 64 * 1024
        (record,) = watcher.told("new_request")
        assert record["truncated"]
        assert "...[truncated" in record["request"]


async def test_who_does_not_read_is_dropped_with_a_notice(world: World) -> None:
    await world.chat("one", "load")
    async with Watcher(world.service.app) as watcher:
        watcher.reads.clear()
        for number in range(104):
            assert (await world.chat("one", str(number))).status == 200
        watcher.reads.set()
        assert watcher.task is not None
        await watcher.task
        assert watcher.events[-1].startswith("event: error\ndata: {")
        assert "too slow" in watcher.events[-1]


async def test_the_stream_ends_when_the_service_stops(world: World) -> None:
    recorder = world.service.services.recorder
    assert recorder is not None
    async with Watcher(world.service.app) as watcher:
        recorder.close()
        assert watcher.task is not None
        async with asyncio.timeout(5):
            await watcher.task
    assert not any("error" in event for event in watcher.events)
    assert 503 == (await world.call("GET", "/engines/requests", headers=EVENTS)).status
    assert 429 == (await world.call("GET", "/engines/requests", headers=[*EVENTS, *STOCK])).status


async def test_a_watcher_that_leaves_leaves_nothing(world: World) -> None:
    recorder = world.service.services.recorder
    assert recorder is not None
    before = asyncio.all_tasks()
    for _ in range(40):  # more than may watch at once
        async with Watcher(world.service.app):
            pass
    assert not recorder._subscriptions
    assert asyncio.all_tasks() == before


# --- what an answer says about itself


async def test_answers_say_who_answered_and_where_the_time_went(world: World) -> None:
    world.engine.ready.clear()
    asked = asyncio.ensure_future(world.chat("one", "a"))
    await asyncio.sleep(0.05)
    world.engine.ready.set()
    cold = (await asked).headers
    warm = (await world.chat("one", "a", headers=[("x-request-id", "mine")])).headers

    def milliseconds(value: str) -> dict[str, float]:
        assert re.fullmatch(r"queue;dur=[\d.]+, load;dur=[\d.]+, engine;dur=[\d.]+", value)
        return {name: float(number) for name, number in re.findall(r"(\w+);dur=([\d.]+)", value)}

    assert milliseconds(cold["server-timing"])["load"] >= 40
    assert milliseconds(warm["server-timing"])["load"] == 0
    assert milliseconds(warm["server-timing"])["queue"] < 40
    assert re.fullmatch(r"fake; reason=[a-z-]+", warm["x-dmr-backend"])
    assert "mine" == warm["x-request-id"]


async def test_refusals_on_the_way_to_a_runner_carry_them_too(world: World) -> None:
    world.engine.fail_with = UpstreamError("no")
    answer = await world.chat("one", "a")

    assert 502 == answer.status
    assert {"server-timing", "x-dmr-backend"} <= set(answer.headers)
    assert not {"server-timing", "x-dmr-backend"} & set((await world.chat("nope", "a")).headers)


@pytest.mark.parametrize(
    "error",
    [
        QueueFullError("32 requests wait already", retry_after=7),
        EngineBackoffError("failed 3 times", failures=3, last=UpstreamError("x"), retry_after=7),
    ],
)
async def test_a_refusal_for_now_says_when_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def refuse(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(world.service.services.scheduler, "lease", refuse)
    answer = await world.chat("one", "a")
    assert (503, "7") == (answer.status, answer.headers["retry-after"])
    stock = await world.chat("one", "a", headers=STOCK)
    assert (429, "7") == (stock.status, stock.headers["retry-after"])
    assert "text/plain" in stock.headers["content-type"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10m", KeepAlive(600.0)),
        (90, KeepAlive(90.0)),
        (0.5, KeepAlive(0.5)),
        (-1, KeepAlive.forever()),
        ("-1", KeepAlive.forever()),
    ],
)
async def test_a_request_says_how_long_to_keep_its_model(world: World, value: Any, expected: KeepAlive) -> None:
    for _ in ("cold", "warm"):
        assert (await world.chat("one", "a", body={"keep_alive": value})).status == 200
        for _ in range(20):
            await asyncio.sleep(0)
        assert [expected] == [view.keep_alive for view in world.service.services.scheduler.runners()]
    assert json.loads(world.transport.requests[-1][1].body)["keep_alive"] == value


async def test_a_model_kept_for_no_time_is_unloaded_after_the_answer(world: World) -> None:
    await world.chat("one", "a")
    assert (await world.chat("one", "a", body={"keep_alive": 0})).status == 200
    async with asyncio.timeout(5):
        while world.service.services.scheduler.runners():
            await asyncio.sleep(0)


@pytest.mark.parametrize("value", ["soon", {}, [], True, 1e300, ""])
async def test_a_keep_alive_that_is_none_is_400(world: World, value: Any) -> None:
    answer = await world.chat("one", "a", body={"keep_alive": value})

    assert (400, "keep_alive") == (answer.status, answer.json()["error"]["param"])
    assert world.engine.started == []


async def test_streams_are_counted_once_they_have_ended_well(world: World) -> None:
    await world.chat("one", "a b c", body={"stream": True})
    await world.chat("one", "a b c")
    await world.chat("one", "word " * 500, body={"stream": True}, leave_after=2)

    assert 1 == world.metrics.counts["streamed", "fake", "completion"]
