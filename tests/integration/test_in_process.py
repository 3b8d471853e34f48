"""The whole service in one process, on the shipped fakes, with the network forbidden."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.artifact import CONFIG_V01, Artifact, Descriptor, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_config, encode_manifest
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.errors import EngineExitedError, InvalidConfigurationError, ShuttingDownError
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import Answer as FakeAnswer
from dmr_core.testing.fakes.transport import Answer as UpstreamAnswer
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call

STOCK = [("user-agent", "docker-model-cli/v1.0")]


def artifact(weights: bytes) -> tuple[Artifact, bytes]:
    """A GGUF model artifact around ``weights``."""
    layer = Descriptor(media_type=LayerType.GGUF, digest=Digest.of(weights), size=len(weights))
    config = ModelConfig(format="gguf", parameters="1", size="1B", context_size=64, diff_ids=(str(layer.digest),))
    config_bytes = encode_config(config)
    described = Descriptor(media_type=CONFIG_V01, digest=Digest.of(config_bytes), size=len(config_bytes))
    manifest = Manifest(config=described, layers=(layer,))
    made = Artifact(
        manifest=manifest, manifest_bytes=encode_manifest(manifest), config=config, config_bytes=config_bytes
    )
    return made, weights


@attrs.frozen
class World:
    service: Service
    engine: FakeEngine
    registry: InMemoryRegistry
    metrics: InMemoryMetrics
    transport: InMemoryTransport

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def pull(self, name: str) -> Answer:
        return await self.call("POST", "/models/create", {"from": name}, headers=[("accept", "application/json")])

    async def chat(self, model: str, text: str, path: str = "/v1/chat/completions", **options: Any) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **options.pop("body", {})}
        return await self.call("POST", path, body, **options)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    def forbidden(*_arguments: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket.socket, "bind", forbidden)
    async with make_world() as made:
        yield made


@asynccontextmanager
async def make_world(*, spec: dict[str, Any] | None = None, **changes: Any) -> AsyncIterator[World]:
    """A world; ``spec`` are fields of its backend's, ``changes`` are settings."""
    transport, registry, metrics = InMemoryTransport(), InMemoryRegistry(), InMemoryMetrics()
    engine = FakeEngine(transport)
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        metrics=metrics,
        entry_points=(),
        backends=(fake_backend(engine, **(spec or {})),),
    )
    settings = Settings(models_path=Path("/nowhere"), max_runners=1, max_body=4096, **changes)
    policy = ReferencePolicy()
    for name in ("ai/one", "ai/two"):
        made, weights = artifact(name.encode())
        registry.seed(parse_reference(name, policy), made, [weights])
    async with open_service(settings, overrides) as service:
        yield World(service, engine, registry, metrics, transport)


async def test_pull_list_chat_and_remove(world: World) -> None:
    """The main job, end to end, in one process."""
    lines = [json.loads(line) for line in (await world.pull("one")).text.splitlines()]
    assert lines[-1]["type"] == "success"
    assert lines[-1]["message"] == "Model pulled successfully"
    assert lines[0]["layer"]["size"] == len(b"ai/one")

    (model,) = (await world.call("GET", "/models")).json()
    assert model["tags"] == ["docker.io/ai/one:latest"]

    answer = await world.chat("one", "hello there")
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "hello there"
    assert answer.json()["model"] == "one"

    removed = await world.call("DELETE", "/models/one")
    assert removed.json() == [{"Untagged": "docker.io/ai/one:latest"}, {"Deleted": model["id"]}]
    assert (await world.chat("one", "again")).status == 404
    assert world.engine.started[0].stopped


async def test_a_pulled_model_is_not_pulled_again(world: World) -> None:
    await world.pull("one")

    assert "Using cached model: 1B" in (await world.pull("one")).text


async def test_answers_carry_the_name_that_was_asked_for(world: World) -> None:
    """Whatever name a model was loaded under, streamed or not."""
    await world.pull("one")
    for name in ("one", "ai/one:latest", "docker.io/ai/one"):
        assert (await world.chat(name, "hi")).json()["model"] == name
        streamed = await world.chat(name, 'say "model":"one" please', body={"stream": True})
        events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
        assert {event["model"] for event in events} == {name}
        assert (
            "".join(event["choices"][0]["delta"]["content"] for event in events).strip() == 'say "model":"one" please'
        )
    assert len(world.engine.started) == 1


async def test_many_requests_to_a_cold_model_are_one_load(world: World) -> None:
    await world.pull("one")
    answers = await asyncio.gather(*(world.chat("one", f"n{number}") for number in range(16)))

    assert [f"n{number}" for number in range(16)] == [a.json()["choices"][0]["message"]["content"] for a in answers]
    assert len(world.engine.started) == 1
    assert world.metrics.counts["load", "fake", "ready"] == 1


async def test_two_models_take_turns_in_one_slot(world: World) -> None:
    await world.pull("one")
    await world.pull("two")
    answers = await asyncio.gather(*(world.chat(("one", "two")[n % 2], f"n{n}") for n in range(40)))

    assert {answer.status for answer in answers} == {200}
    assert world.metrics.alive == 1


async def test_an_engine_that_dies_in_mid_answer_ends_the_stream_with_a_typed_error(world: World) -> None:
    await world.pull("one")

    async def crash_soon() -> None:
        while not world.engine.started:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        world.engine.started[0].crash(-9)

    answer, _ = await asyncio.gather(world.chat("one", "word " * 500, body={"stream": True}), crash_soon())
    last = answer.text.rstrip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "killed by signal 9" in error["message"]

    assert (await world.chat("one", "again")).status == 200
    assert len(world.engine.started) == 2


async def test_a_failed_load_is_told_and_the_next_request_tries_again(world: World) -> None:
    await world.pull("one")
    world.engine.fail_with = EngineExitedError("fake", 1, "no such file")
    answer = await world.chat("one", "hi")
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "engine_exited"
    assert "no such file" in answer.json()["error"]["message"]

    world.engine.fail_with = None
    assert (await world.chat("one", "hi")).status == 200


async def test_a_client_that_leaves_gives_its_lease_back(world: World) -> None:
    await world.pull("one")
    await world.chat("one", "word " * 500, body={"stream": True}, leave_after=2)

    (view,) = world.service.services.scheduler.runners()
    assert view.leases == 0
    assert world.transport.open_responses == set()


async def test_a_client_that_leaves_a_load_leaves_it_to_the_others(world: World) -> None:
    await world.pull("one")
    world.engine.ready.clear()
    first = asyncio.ensure_future(world.chat("one", "a"))
    second = asyncio.ensure_future(world.chat("one", "b"))
    while not world.engine.started:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.engine.ready.set()

    assert (await second).status == 200
    assert len(world.engine.started) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (
            "/v1/chat/completions",
            {"model": "nope"},
            404,
            "error while getting model: get model '\"nope\"': model not found",
        ),
        ("/v1/chat/completions", b"{", 400, "invalid request"),
        ("/v1/chat/completions", {"model": 7}, 400, "invalid request"),
        ("/v1/chat/completions", {}, 400, "model is required"),
        ("/v1/chat/completions", {"model": None}, 400, "model is required"),
        ("/v1/chat/completions", {"model": "a:b:c"}, 400, "invalid reference"),
        ("/engines/foo/v1/chat/completions", {"model": "one"}, 404, "backend not found"),
        ("/v1/images/generations", {"model": "one"}, 422, "image-generation"),
    ],
)
async def test_each_refusal_has_its_status_and_text(world: World, path: str, body: Any, status: int, text: str) -> None:
    await world.pull("one")
    answer = await world.call("POST", path, body)
    assert (status, "application/json") == (answer.status, answer.headers["content-type"])
    assert text in answer.json()["error"]["message"]

    plain = await world.call("POST", path, body, headers=STOCK)
    assert (status, "text/plain; charset=utf-8") == (plain.status, plain.headers["content-type"])
    assert text in plain.text


async def test_an_oversize_body_is_413_and_400_for_the_stock_cli(world: World) -> None:
    body = {"model": "one", "messages": [{"role": "user", "content": "x" * 5000}]}

    answer = await world.call("POST", "/v1/chat/completions", body)
    assert (413, "request_too_large") == (answer.status, answer.json()["error"]["code"])
    plain = await world.call("POST", "/v1/chat/completions", body, headers=STOCK)
    assert (400, "request too large\n") == (plain.status, plain.text)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/", b"", 200, "Docker Model Runner is running"),
        ("GET", "/models/nope", b"", 404, "model not found\n"),
        ("DELETE", "/models/nope", b"", 404, "error while deleting model: model not found\n"),
        ("POST", "/models/create", {"from": ""}, 400, "Invalid model reference\n"),
        ("POST", "/models/create", b"nonsense", 400, "invalid request body\n"),
        ("POST", "/models/foo", b"", 404, 'unknown action "foo"\n'),
        ("POST", "/models/one/tag", b"", 400, "missing repo or tag query parameter\n"),
        ("GET", "/engines/nope/v1/models", b"", 404, "backend not found"),
        ("GET", "/nope", b"", 404, "404 page not found\n"),
        ("GET", "/engines/nope", b"", 404, "not found\n"),
        ("POST", "/engines/unload", b"{", 400, "invalid request"),
    ],
)
async def test_management_routes_answer_as_the_reference_does(
    world: World, method: str, path: str, body: Any, status: int, text: str
) -> None:
    answer = await world.call(method, path, body)

    assert status == answer.status
    assert text in answer.text


async def test_a_model_the_registry_does_not_have_is_404(world: World) -> None:
    answer = await world.pull("absent")

    assert answer.status == 404
    assert "Model not found" in answer.text


async def test_lines_are_escaped_unless_json_is_asked_for(world: World) -> None:
    answer = await world.call("POST", "/models/create", {"from": "one"})

    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith("{&#34;type&#34;:&#34;progress&#34;")


async def test_two_pulls_of_one_model_are_one_download_and_two_successes(world: World) -> None:
    answers = await asyncio.gather(world.pull("one"), world.pull("one"))

    assert ["Model pulled successfully"] * 2 == [json.loads(a.text.splitlines()[-1])["message"] for a in answers]


async def test_a_damaged_blob_ends_the_stream_with_an_error_line(world: World) -> None:
    world.registry.corrupt(Digest.of(b"ai/one"))
    answer = await world.pull("one")
    last = json.loads(answer.text.splitlines()[-1]) if answer.status == 200 else {}

    assert answer.status in (200, 502)
    assert last.get("type", "error") == "error"
    assert "digest mismatch" in answer.text
    assert (await world.call("GET", "/models")).json() == []


async def test_ps_unload_and_preload(world: World) -> None:
    await world.pull("one")
    body = {"model": "one", "messages": [], "stream": False}
    answer = await world.call("POST", "/v1/chat/completions", body, headers=[("x-preload-only", "true")])
    assert (200, b"") == (answer.status, answer.body)

    (runner,) = (await world.call("GET", "/engines/ps")).json()
    assert ("fake", "one", "completion") == (runner["backend_name"], runner["model_name"], runner["mode"])
    assert "in_use" not in runner

    unloaded = (await world.call("POST", "/engines/unload", {"models": ["ai/one"]})).json()
    assert unloaded["unloaded_runners"] == 1
    assert unloaded["runners"] == [{"backend": "fake", "model": "one", "mode": "completion", "stopped": True}]
    assert (await world.call("GET", "/engines/ps")).json() == []
    again = (await world.call("POST", "/engines/unload", {"all": True})).json()
    assert again == {"unloaded_runners": 0, "runners": []}


async def test_configure_stores_settings_and_loads_the_model(world: World) -> None:
    await world.pull("one")
    body = {"model": "one", "context-size": 128, "keep_alive": "10m", "raw-runtime-flags": "--temp 0.5"}
    assert (await world.call("POST", "/engines/_configure", body)).status == 202
    while not world.engine.started:
        await asyncio.sleep(0)
    launched = world.engine.started[0].request.config
    assert (128, ("--temp", "0.5")) == (launched.context_size, launched.runtime_flags)

    (entry,) = (await world.call("GET", "/engines/_configure?model=one")).json()
    assert ("docker.io/ai/one:latest", "completion") == (entry["Model"], entry["Mode"])
    assert entry["Config"]["keep_alive"] == "10m0s"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "nope"}, 404),
        ({"model": ""}, 400),
        ({"context-size": 2**40}, 400),
        ({"keep_alive": "soon"}, 400),
        ({"keep_alive": 5}, 400),
        ({"mode": "dance"}, 400),
        ({"raw-runtime-flags": "'open"}, 400),
    ],
)
async def test_configure_refuses_what_cannot_be(world: World, change: dict[str, Any], status: int) -> None:
    await world.pull("one")

    assert (await world.call("POST", "/engines/_configure", {"model": "one", **change})).status == status
    assert world.engine.started == []


async def test_a_setting_the_engine_refuses_is_400(world: World) -> None:
    await world.pull("one")
    world.engine.refuse = InvalidConfigurationError('runtime flag "--log-file" is not allowed for backend "fake"')
    body = {"model": "one", "runtime-flags": ["--log-file", "x"]}
    answer = await world.call("POST", "/engines/_configure", body)

    assert answer.status == 400
    assert "--log-file" in answer.text


@pytest.mark.parametrize("path", ["/models", "/v1/models", "/engines/v1/models", "/engines/fake/v1/models"])
async def test_who_has_a_listing_is_not_sent_it_again(world: World, path: str) -> None:
    await world.pull("one")
    whole = await world.call("GET", path)
    condition = [("if-none-match", whole.headers["etag"])]

    again = await world.call("GET", path, headers=condition)
    await world.pull("two")
    changed = await world.call("GET", path, headers=condition)

    assert (whole.status, again.status, again.body, changed.status) == (200, 304, b"", 200)


async def test_openai_listing_names_models_as_clients_do(world: World) -> None:
    await world.pull("one")
    for prefix in ("/v1", "/engines/v1", "/engines/fake/v1"):
        listed = (await world.call("GET", f"{prefix}/models")).json()
        assert ["docker.io/ai/one:latest"] == [model["id"] for model in listed["data"]]
        assert (await world.call("GET", f"{prefix}/models/one")).json()["id"] == "one"
    missing = await world.call("GET", "/v1/models/nope")
    assert (404, "model_not_found") == (missing.status, missing.json()["error"]["code"])


async def test_tags_come_and_go(world: World) -> None:
    await world.pull("one")
    answer = await world.call("POST", "/models/one/tag?repo=ai/one&tag=v10")
    assert (201, "ai/one:v10") == (answer.status, answer.json()["target"])
    (model,) = (await world.call("GET", "/models")).json()
    assert model["tags"] == ["docker.io/ai/one:latest", "docker.io/ai/one:v10"]

    conflict = await world.call("DELETE", f"/models/{model['id']}")
    assert conflict.status == 409
    assert "(must be forced) due to multiple tag references" in conflict.text
    assert (await world.call("DELETE", "/models/one:v10")).json() == [{"Untagged": "docker.io/ai/one:v10"}]
    assert (await world.call("DELETE", f"/models/{model['id'][7:19]}?force=1")).status == 200


async def test_push_sends_what_was_pulled(world: World) -> None:
    await world.pull("one")
    await world.call("POST", "/models/one/tag?repo=registry.example/x/one&tag=v1")
    answer = await world.call("POST", "/models/registry.example/x/one:v1/push")

    assert "Model pushed successfully" in answer.text
    pushed = world.registry.manifest_bytes(parse_reference("registry.example/x/one:v1", ReferencePolicy()))
    (model,) = (await world.call("GET", "/models")).json()
    assert pushed is not None
    assert str(Digest.of(pushed)) == model["id"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("origin", "http://evil.example")], 403),
        ([("origin", "http://localhost:3000")], 200),
        ([("origin", "null")], 403),
        ([], 200),
    ],
)
async def test_pages_of_other_origins_are_refused(world: World, headers: list[tuple[str, str]], status: int) -> None:
    assert (await world.call("GET", "/models", headers=headers)).status == status


async def test_double_slashes_are_cleaned_in_place(world: World) -> None:
    assert (await world.call("GET", "//models")).json() == []
    assert (await world.call("GET", "/exp/vDD4.40/models")).json() == []


async def test_metrics_count_what_happened(world: World) -> None:
    await world.pull("one")
    await world.chat("one", "hi")
    await world.chat("nope", "hi")

    assert world.metrics.counts["request", "fake", "completion", "200"] == 1
    assert b"load_fake_ready 1" in (await world.call("GET", "/metrics")).body


async def test_configuring_a_loaded_model_loads_it_again_with_the_new_settings(world: World) -> None:
    await world.pull("one")
    await world.chat("one", "hi")
    for _ in range(50):  # let the pump come to rest: only then could the preload overtake it
        await asyncio.sleep(0)
    assert (await world.call("POST", "/engines/_configure", {"model": "one", "context-size": 32})).status == 202
    while len(world.engine.started) < 2:
        await asyncio.sleep(0)

    assert world.engine.started[0].stopped
    assert world.engine.started[1].request.config.context_size == 32
    assert (await world.chat("one", "still there")).status == 200
    assert len(world.engine.started) == 2


async def test_json_nested_without_end_is_a_bad_request(world: World) -> None:
    await world.pull("one")
    deep = b'{"model": "one", "a": ' + b"[" * 2000 + b"]" * 2000 + b"}"

    assert (await world.call("POST", "/v1/chat/completions", deep[:4000])).status == 400
    assert (await world.call("POST", "/models/create", deep)).status == 400


async def test_events_with_carriage_returns_are_passed_on_as_they_come(world: World) -> None:
    await world.pull("one")
    await world.chat("one", "load it")

    async def events() -> AsyncGenerator[bytes, None]:
        for number in range(5):
            yield b'data: {"n": %d}\r\n\r\n' % number

    async def answer(_request: UpstreamRequest) -> FakeAnswer:
        return FakeAnswer(200, ((b"content-type", b"text/event-stream"),), events())

    world.transport.serve(world.engine.started[0].endpoint, answer)
    answered = await world.chat("one", "x", body={"stream": True})
    assert len(answered.parts) == 5


async def test_a_bug_is_a_500_that_is_logged_and_tells_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(world.service.services.store, "refresh", broken)
    with contextlib.suppress(RuntimeError):  # Starlette passes it on to the server once it has answered
        answer = await world.call("GET", "/models")
        assert (answer.status, answer.text) == (500, "internal error\n")
    assert "secret inside" in caplog.text


async def test_a_client_that_reads_nothing_loses_its_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed or not, and told once."""
    monkeypatch.setattr("dmr_adapters.http.inference.relay._SEND_TIMEOUT", 0.05)
    await world.pull("one")
    for stream in (False, True):
        with pytest.raises(TimeoutError):
            await world.chat("one", "word " * 20, body={"stream": stream}, stall=True)
        (view,) = world.service.services.scheduler.runners()
        assert view.leases == 0


async def test_a_pull_given_up_does_not_spoil_the_next_one(world: World) -> None:
    first = await world.service.services.pulling.pull("one")
    await anext(first)
    await first.aclose()

    assert "Model pulled successfully" in (await world.pull("one")).text


async def test_closing_ends_pulls_with_a_typed_line(world: World) -> None:
    pulling = world.service.services.pulling
    lines = await pulling.pull("one")
    await anext(lines)
    await pulling.aclose()
    with pytest.raises(ShuttingDownError):
        async for _ in lines:
            pass
    with pytest.raises(ShuttingDownError):
        await pulling.pull("two")


async def test_the_bundled_model_is_never_looked_up_in_a_registry(world: World) -> None:
    answer = await world.call("GET", "/models/dmr/demo?remote=true")

    assert answer.status == 422


async def test_an_engines_503_is_429_to_the_stock_cli(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.pull("one")
    serve = world.transport.serve

    async def busy(request: UpstreamRequest) -> UpstreamAnswer:
        headers = ((b"content-type", b"application/json"),)
        return (
            UpstreamAnswer(200) if request.path == "/health" else UpstreamAnswer(503, headers, b'{"error": "loading"}')
        )

    monkeypatch.setattr(world.transport, "serve", lambda endpoint, _handler: serve(endpoint, busy))
    assert (await world.chat("one", "hi", headers=STOCK)).status == 429
    assert (await world.chat("one", "hi")).status == 503


async def test_the_stock_cli_waits_longer_than_a_request_may() -> None:
    async with make_world(queue_timeout=0.05) as world:
        await world.pull("one")
        world.engine.ready.clear()
        asking = asyncio.ensure_future(world.chat("one", "hi", headers=STOCK))
        refused = await world.chat("one", "hi")
        assert (503, "queue_timeout") == (refused.status, refused.json()["error"]["code"])
        assert int(dict(refused.headers)["retry-after"]) >= 1

        world.engine.ready.set()
        assert (await asking).status == 200


async def test_half_a_request_is_not_waited_for_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr_adapters.http.asgi._SILENCE", 0.01)
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": b'{"model"', "more_body": True}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
    }
    async with asyncio.timeout(5.0):
        await world.service.app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert b"request_timeout" in sent[1]["body"]


# --- OpenAI's shape


OPENAI_PATHS = (
    "/v1/nope",
    "/v1",
    "/engines/v1/nope",
    "/engines/fake/v1/nope",
    "/v1/chat/completions",
    "/engines/fake/v1/embeddings",
    "/rerank",
    "/v1/score",
    "/responses",
    "/v1/responses/resp_x",
    "/engines/v1/responses/resp_x/input_items",
    "/v1/models",
    "/v1/models/nope",
)


@pytest.mark.parametrize("path", OPENAI_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_errors_below_v1_have_openais_shape(world: World, method: str, path: str) -> None:
    answer = await world.call(method, path, b"{")
    if answer.status == 200:
        assert (method, path) == ("GET", "/v1/models")
        return
    error = answer.json()["error"]
    assert {"message", "type", "code", "param"} == set(error)
    assert answer.status in (400, 404, 405)
    assert (answer.status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/chat/completions", "/engines/fake/v1/nope", "/v1/models"])
async def test_the_stock_cli_gets_the_texts_it_knows(world: World, path: str) -> None:
    answer = await world.call("PUT", path, b"{", headers=STOCK)
    assert (404, "not found\n") == (answer.status, answer.text)


async def test_images_where_no_engine_makes_any(world: World) -> None:
    await world.pull("one")
    for path in ("/v1/images/generations", "/engines/fake/v1/images/generations"):
        answer = await world.call("POST", path, {"model": "one", "prompt": "a cat"})
        assert 422 == answer.status
        assert "image-generation" in answer.json()["error"]["message"]
    answer = await world.call("POST", "/v1/images/generations", {"model": "one", "prompt": "a cat"})
    assert "unsupported_operation" == answer.json()["error"]["code"]
    assert "no engine here can generate images with" in answer.json()["error"]["message"]


async def test_an_engine_that_makes_images_claims_them_by_its_modes_and_one_that_lacks_a_route_says_so() -> None:
    async with make_world(spec={"modes": frozenset(EngineMode), "lacks": frozenset({"/score"})}) as world:
        await world.pull("one")
        answer = await world.call("POST", "/v1/images/generations", {"model": "one", "prompt": "a cat"})
        assert 200 == answer.status
        for path in ("/score", "/v1/score", "/engines/fake/v1/score"):
            answer = await world.call("POST", path, {"model": "one", "text_1": "a", "text_2": "b"})
            assert (422, "unsupported_operation") == (answer.status, answer.json()["error"]["code"])
        assert 200 == (await world.call("POST", "/v1/rerank", {"model": "one", "query": "a", "documents": []})).status
