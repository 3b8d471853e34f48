"""What clients of Docker Model Runner rely on, and what dmr mends of it; ``docs/compatibility.md`` is the list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dmr_core.testing.fakes.transport import Answer as EngineAnswer
from tests.integration.test_in_process import STOCK, World, make_world

BODY = {"messages": [{"role": "user", "content": "hi"}]}
JSON = (b"content-type", b"application/json")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        await made.pull("one")
        yield made


async def test_the_stock_cli_is_told_of_missing_models_in_its_words(world: World) -> None:
    """G3: one text for management, another where a model was to answer."""
    inspected = await world.call("GET", "/models/nope", headers=STOCK)
    assert (404, "model not found\n") == (inspected.status, inspected.text)
    for method, path, body in (
        ("GET", "/engines/v1/models/nope", b""),
        ("POST", "/engines/v1/embeddings", b'{"model":"nope"}'),
    ):
        answer = await world.call(method, path, body, headers=STOCK)
        assert (404, "error while getting model: get model '\"nope\"': model not found\n") == (
            answer.status,
            answer.text,
        )


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/engines/v1/chat/completions", 404, "not found\n"),
        ("PUT", "/models/one", 404, "not found\n"),
        ("GET", "/engines/unload", 404, "not found\n"),
        ("POST", "/metrics", 405, "Method Not Allowed\n"),
        ("DELETE", "/anthropic/v1/messages", 405, ""),
        ("PUT", "/responses", 405, ""),
    ],
)
async def test_a_wrong_method_is_answered_as_the_stock_cli_knows_it(
    world: World, method: str, path: str, status: int, text: str
) -> None:
    """G4."""
    answer = await world.call(method, path, headers=STOCK)
    assert status == answer.status
    assert text in answer.text


async def test_successes_have_the_status_the_stock_cli_insists_on(world: World) -> None:
    """G6."""
    configured = await world.call("POST", "/engines/_configure", {"model": "one", "context-size": 64}, headers=STOCK)
    assert (202, b"") == (configured.status, configured.body)
    (entry,) = (await world.call("GET", "/engines/_configure", headers=STOCK)).json()
    assert {"Backend", "Model", "ModelID", "Mode", "Config"} == set(entry)
    tagged = await world.call("POST", "/models/one/tag?repo=docker.io/ai/x&tag=latest", headers=STOCK)
    assert 201 == tagged.status
    steps = (await world.call("DELETE", "/models/ai/x?force=false", headers=STOCK)).json()
    assert [{"Untagged": "docker.io/ai/x:latest"}] == steps


async def test_keep_alive_is_text_to_configure_and_read_back_as_a_duration(world: World) -> None:
    """G7."""
    for said, told in (("5m", "5m0s"), ("-1", "-1"), ("-5m", "-1"), ("90s", "1m30s")):
        assert 202 == (await world.call("POST", "/engines/_configure", {"model": "one", "keep_alive": said})).status
        (entry,) = (await world.call("GET", "/engines/_configure?model=one")).json()
        assert told == entry["Config"]["keep_alive"]
    assert 400 == (await world.call("POST", "/engines/_configure", {"model": "one", "keep_alive": 300})).status


async def test_a_busy_runner_was_last_used_in_the_year_one(world: World) -> None:
    """G8: which the stock CLI reads as now."""
    answering = asyncio.ensure_future(world.chat("one", "word " * 500, body={"stream": True}))
    runners: list[dict[str, Any]] = []
    while not runners or "in_use" not in runners[0]:
        await asyncio.sleep(0)
        assert not answering.done()
        runners = (await world.call("GET", "/engines/ps", headers=STOCK)).json()
    assert ("0001-01-01T00:00:00Z", True) == (runners[0]["last_used"], runners[0]["in_use"])
    await answering
    (runner,) = (await world.call("GET", "/engines/ps", headers=STOCK)).json()
    assert "in_use" not in runner
    assert runner["last_used"] != "0001-01-01T00:00:00Z"


async def test_names_with_slashes_go_before_every_action(world: World) -> None:
    """G9."""
    assert 201 == (await world.call("POST", "/models/docker.io/ai/one:latest/tag?repo=reg.example/a/b/c&tag=v1")).status
    assert 200 == (await world.call("GET", "/models/reg.example/a/b/c:v1")).status
    assert 200 == (await world.call("GET", "/models/reg.example/a/b/c:v1/export")).status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", BODY),
        ("/engines/v1/chat/completions", BODY),
        ("/engines/fake/v1/chat/completions", BODY),
        ("/v1/messages", {**BODY, "max_tokens": 5}),
        ("/engines/v1/messages", {**BODY, "max_tokens": 5}),
    ],
)
async def test_every_alias_reaches_the_engine(world: World, path: str, body: dict[str, object]) -> None:
    """G10."""
    assert 200 == (await world.call("POST", path, {"model": "one", **body}, headers=STOCK)).status


@pytest.mark.parametrize("path", ["/rerank", "/score", "/engines/rerank", "/engines/fake/score"])
async def test_ranking_has_its_aliases_too(world: World, path: str) -> None:
    """G10: they are routes, though this engine cannot rank."""
    answer = await world.call("POST", path, {"model": "one", "query": "q", "documents": ["d"]})
    assert 422 == answer.status
    assert "reranking" in answer.json()["error"]["message"]


async def test_progress_has_every_field_the_stock_cli_decodes(world: World) -> None:
    """G14."""
    lines = (await world.pull("two")).text.splitlines()
    for line in map(json.loads, lines):
        assert {"type", "message", "total", "mode", "layer"} <= line.keys()
        assert {"size", "current"} <= line["layer"].keys()


async def test_unloading_everything_keeps_settings(world: World) -> None:
    """G15, B12: settings belong to the model, not to its runner."""
    await world.call("POST", "/engines/_configure", {"model": "one", "context-size": 64})
    await world.call("POST", "/engines/unload", {"all": True}, headers=STOCK)
    (entry,) = (await world.call("GET", "/engines/_configure")).json()
    assert 64 == entry["Config"]["context-size"]


async def test_an_engines_own_headers_stay_behind(world: World) -> None:
    """G20: what it allows pages of other origins above all."""
    headers = (JSON, (b"content-length", b"2"), (b"access-control-allow-origin", b"*"), (b"server", b"llama.cpp"))
    world.engine.reply = lambda request: EngineAnswer(200, headers, b"{}") if request.method == "POST" else None
    answer = await world.chat("one", "hi")
    assert 200 == answer.status
    assert not {"access-control-allow-origin", "server"} & answer.headers.keys()
    for method, path in (("GET", "/models"), ("POST", "/v1/chat/completions")):
        assert 403 == (await world.call(method, path, headers=[("origin", "https://evil.example")])).status


async def test_a_double_slash_costs_no_body(world: World) -> None:
    """G22: clients join their base with a path, and a redirect would lose what they post."""
    answer = await world.chat("one", "hi", path="//v1//chat/completions")
    assert (200, "hi") == (answer.status, answer.json()["choices"][0]["message"]["content"])


async def test_the_probes_of_the_stock_cli_are_answered_before_any_engine_is_there() -> None:
    """G24."""
    async with make_world() as world:
        world.engine.installed = False
        assert (200, []) == ((answer := await world.call("GET", "/models", headers=STOCK)).status, answer.json())
        status = await world.call("GET", "/engines/status", headers=STOCK)
        assert 200 == status.status
        assert all(isinstance(text, str) for text in status.json().values())


async def test_no_error_but_not_running_is_503_to_the_stock_cli(world: World) -> None:
    """G13."""
    headers = (JSON, (b"content-length", b"2"))
    world.engine.reply = lambda request: EngineAnswer(503, headers, b"{}") if request.method == "POST" else None
    assert 429 == (await world.chat("one", "hi", headers=STOCK)).status
    assert 503 == (await world.chat("one", "hi")).status


async def test_a_client_cannot_say_where_its_request_comes_from(world: World) -> None:
    """B28."""
    await world.chat("one", "hi", headers=[("x-request-origin", "ollama/completion")])
    _, asked = world.transport.requests[-1]
    assert b"x-request-origin" not in dict(asked.headers)
    (listed,) = (await world.call("GET", "/engines/requests")).json()
    assert "ollama" not in json.dumps({key: value for key, value in listed.items() if key != "records"})
    assert not any("ollama" in str(record.get("origin", "")) for record in listed["records"])


async def test_errors_have_the_shape_each_client_reads(world: World) -> None:
    """B19: an object for SDKs, the text itself for the CLI that prints it."""
    error = (await world.chat("nope", "hi")).json()["error"]
    assert {"message", "type", "code", "param"} == set(error)
    assert (await world.chat("nope", "hi", headers=STOCK)).text == error["message"] + "\n"


async def test_disk_usage_is_told_where_no_engine_is_installed(world: World) -> None:
    """B31."""
    usage = await world.call("GET", "/engines/df", headers=STOCK)
    assert 200 == usage.status
    assert {"models_disk_usage", "default_backend_disk_usage"} <= usage.json().keys()
    assert all(isinstance(usage.json()[key], int) for key in ("models_disk_usage", "default_backend_disk_usage"))


async def test_a_model_in_use_is_not_removed(world: World) -> None:
    """B21."""
    answering = asyncio.ensure_future(world.chat("one", "word " * 500, body={"stream": True}))
    while not any(view.leases for view in world.service.services.scheduler.runners()):
        await asyncio.sleep(0)
    assert 409 == (await world.call("DELETE", "/models/one", headers=STOCK)).status
    await answering
    assert 200 == (await world.call("DELETE", "/models/one", headers=STOCK)).status
    assert [] == (await world.call("GET", "/engines/ps")).json()


async def test_the_source_of_a_tag_is_read_whole(world: World) -> None:
    """B37: not cut where the target begins alike."""
    await world.call("POST", "/models/one/tag?repo=ai/x&tag=1")
    answer = await world.call("POST", "/models/ai/x:1/tag?repo=ai/x&tag=12", headers=STOCK)
    assert 201 == answer.status
    (model,) = (await world.call("GET", "/models")).json()
    assert ["docker.io/ai/one:latest", "docker.io/ai/x:1", "docker.io/ai/x:12"] == sorted(model["tags"])


async def test_identifiers_of_responses_are_prefixed_and_long(world: World) -> None:
    """G23."""
    answer = await world.call("POST", "/responses", {"model": "one", "input": "hi"}, headers=STOCK)
    made = answer.json()
    assert (200, True) == (answer.status, isinstance(made["created_at"], int))
    for value, prefix in ((made["id"], "resp_"), (made["output"][0]["id"], "msg_")):
        assert value.startswith(prefix)
        assert len(value) >= len(prefix) + 24


async def test_a_tag_that_cannot_be_is_refused_not_a_failure(world: World) -> None:
    """B24."""
    answer = await world.call("POST", "/models/one/tag?repo=ai/x&tag=a%20b", headers=STOCK)
    assert 400 == answer.status
