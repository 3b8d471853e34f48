"""Looking at the service while it runs, over HTTP: figures, logs, health, and why. On fakes, in one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.readiness import store_problem
from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.integration.test_in_process import artifact


@attrs.frozen
class World:
    service: Service
    engine: FakeEngine

    async def get(self, path: str) -> Answer:
        return await call(self.service.app, "GET", path)

    async def load(self, name: str) -> None:
        await call(self.service.app, "POST", "/models/create", {"from": name})
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        assert (await call(self.service.app, "POST", "/v1/chat/completions", body)).status == 200


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async for made in opened(Settings(models_path=Path("/nowhere"), max_runners=1)):
        yield made


async def opened(settings: Settings) -> AsyncIterator[World]:
    """A service with two models to pull and a fake engine."""
    transport, registry = InMemoryTransport(), InMemoryRegistry()
    engine = FakeEngine(transport)
    for name in ("ai/one", "ai/two"):
        made, weights = artifact(name.encode())
        registry.seed(parse_reference(name, ReferencePolicy()), made, [weights])
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        entry_points=(),
        backends=(fake_backend(engine),),
    )
    async with open_service(settings, overrides) as service:
        yield World(service, engine)


# --- figures


async def test_the_page_has_what_happened(world: World) -> None:
    await world.load("one")
    await world.load("two")
    answer = await world.get("/metrics")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for entry in text_string_to_metric_families(answer.text)
        for sample in entry.samples
    }

    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert found["dmr_pulls_total", "completed"] == 2
    assert found[("dmr_pulled_bytes_total",)] > 0
    assert found["dmr_loads_total", "fake", "ready"] == 2
    assert found["dmr_evictions_total", "fake"] == 1
    assert found["dmr_runner_requests", "completion", "fake", "two"] == 0


async def test_pulls_are_counted_by_how_they_ended(world: World) -> None:
    app = world.service.app
    await call(app, "POST", "/models/create", {"from": "ai/nowhere"})
    await call(app, "POST", "/models/create", {"from": "one"}, headers=[("accept", "application/json")])
    page = (await world.get("/metrics")).text

    assert 'dmr_pulls_total{outcome="failed"} 1.0\n' in page
    assert 'dmr_pulls_total{outcome="completed"} 1.0\n' in page
    assert f"dmr_pulled_bytes_total {float(len(b'ai/one'))}\n" in page
    assert "dmr_pull_duration_seconds_count 1.0\n" in page


async def test_without_metrics_there_is_no_page() -> None:
    async for world in opened(Settings(models_path=Path("/nowhere"), metrics=False)):
        assert (await world.get("/metrics")).status == 404


# --- health


async def test_a_service_that_works_is_alive_and_ready(world: World) -> None:
    assert (await world.get("/healthz")).text == "ok\n"
    answer = await world.get("/readyz")

    assert answer.status == 200
    assert answer.json() == {"status": "ready", "checks": {"scheduler": "ok", "backend": "ok"}}


async def test_a_broken_scheduler_is_not_ready_but_alive(world: World) -> None:
    pump = world.service.services.scheduler._pump_task
    assert pump is not None
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
    answer = await world.get("/readyz")

    assert answer.status == 503
    assert answer.json() == {"status": "not ready", "checks": {"scheduler": "it does not run", "backend": "ok"}}
    assert (await world.get("/healthz")).status == 200


async def test_an_engine_that_cannot_be_used_is_not_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def statuses() -> dict[str, BackendStatus]:
        return {"fake": BackendStatus(BackendState.ERROR, "no such file")}

    monkeypatch.setattr(world.service.services.backends, "statuses", statuses)
    answer = await world.get("/readyz")

    assert answer.status == 503
    assert answer.json()["checks"]["backend"] == "fake: Error: no such file"


async def test_a_service_that_stops_is_not_ready(world: World) -> None:
    world.service.services.health.stop()
    answer = await world.get("/readyz")

    assert answer.status == 503
    assert answer.json() == {"status": "not ready", "checks": {"service": "it is shutting down"}}


async def test_a_store_that_can_be_read_and_written_has_no_problem(tmp_path: Path) -> None:
    await FilesystemModelStore.open(tmp_path)

    assert await store_problem(tmp_path) == ""
    assert list((tmp_path / ".dmr" / "tmp").iterdir()) == []


async def test_a_store_whose_directory_is_gone_has_one(tmp_path: Path) -> None:
    await FilesystemModelStore.open(tmp_path)
    (tmp_path / ".dmr" / "tmp").rmdir()

    assert "cannot write to" in await store_problem(tmp_path)
    (tmp_path / "models.json").unlink()
    assert "cannot read" in await store_problem(tmp_path)


# --- logs


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("follow=x", 'invalid follow parameter: "x" is not a valid boolean\n'),
        ("no-engines=2", 'invalid no-engines parameter: "2" is not a valid boolean\n'),
        ("follow=yes&no-engines=no", 'invalid follow parameter: "yes" is not a valid boolean\n'),
    ],
)
async def test_what_is_no_boolean_is_refused(world: World, query: str, text: str) -> None:
    answer = await world.get(f"/logs?{query}")

    assert (answer.status, answer.text) == (400, text)


async def test_lines_of_engines_can_be_left_out(world: World) -> None:
    logging.getLogger("dmr.here").error("of the service")
    logging.getLogger("dmr.engine.fake").info("of an engine")
    everything = await world.get("/logs?follow=false&no-engines=F")
    service = await world.get("/logs?no-engines=1")

    assert everything.headers["content-type"].startswith("text/plain")
    assert "of the service" in everything.text
    assert "of an engine" in everything.text
    assert "of an engine" not in service.text


async def test_following_ends_when_the_client_leaves(world: World) -> None:
    logging.getLogger("dmr.here").error("one")
    answer = await asyncio.wait_for(call(world.service.app, "GET", "/logs?follow=true", leave_after=1), 5)

    assert "one" in answer.text
    assert world.service.services.logs._readers == set()


async def test_following_ends_with_the_service(world: World) -> None:
    following = asyncio.ensure_future(world.get("/logs?follow=1"))
    while not world.service.services.logs._readers:
        await asyncio.sleep(0)
    logging.getLogger("dmr.here").error("the last words")
    world.service.services.logs.close()

    assert "the last words" in (await asyncio.wait_for(following, 5)).text


# --- why


async def test_why_follows_a_model_through_its_life(world: World) -> None:
    async def state(name: str) -> str:
        answer = await world.get(f"/dmr/v1/why?model={name}")
        assert answer.status == 200
        return str(answer.json()["state"])

    assert await state("one") == "absent"
    await call(world.service.app, "POST", "/models/create", {"from": "one"})
    assert await state("one") == "never"
    await world.load("one")
    assert await state("one") == "loaded"
    await world.load("two")
    assert await state("one") == "evicted"

    found = (await world.get("/dmr/v1/why?model=one")).json()
    assert "to make room for 'two'" in found["sentences"][0]
    assert ["loading", "ready", "evicted"] == [decision["what"] for decision in found["decisions"]]
    (runner,) = (await world.get("/dmr/v1/why?model=two&mode=completion")).json()["runners"]
    assert (runner["name"], runner["phase"], runner["requests"]) == ("two", "ready", 0)


async def test_why_tells_who_waits(world: World) -> None:
    await world.load("one")
    world.engine.ready.clear()
    waiting = asyncio.ensure_future(world.load("two"))
    while (found := (await world.get("/dmr/v1/why?model=two")).json())["state"] in ("absent", "never", "waiting"):
        await asyncio.sleep(0.001)
    world.engine.ready.set()
    await waiting

    assert found["state"] == "loading"
    assert found["waiting"][0]["position"] == 1
    assert any(sentence.startswith("1 request for it waits") for sentence in found["sentences"])


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "model is required"),
        ("model=a:b:c", "invalid reference"),
        ("model=one&mode=poetry", "unknown mode 'poetry'"),
    ],
)
async def test_questions_that_cannot_be_answered(world: World, query: str, text: str) -> None:
    answer = await world.get(f"/dmr/v1/why?{query}")

    assert answer.status == 400
    assert text in answer.text
