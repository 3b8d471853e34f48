"""Configuring models through the whole service, on the shipped fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.artifact import Format, LayerType, ModelConfig
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.errors import StoreUnwritableError
from dmr_core.ports.backend import BackendSpec
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from dmr_core.testing.fakes.config_store import InMemoryConfigStore
from dmr_core.testing.fakes.engine import FakeEngine, FakeRunningEngine
from dmr_core.testing.fakes.model_files import InMemoryModelFiles
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call

STOCK = [("user-agent", "docker-model-cli/v1.0")]
RERANKING = EngineMode.RERANKING


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@attrs.define
class World:
    """A store, kept settings, and the service on them."""

    store: InMemoryModelStore = attrs.field(factory=InMemoryModelStore)
    configs: InMemoryConfigStore = attrs.field(factory=InMemoryConfigStore)
    engine: FakeEngine = attrs.field(factory=lambda: FakeEngine(InMemoryTransport()))

    async def add(self, name: str, *, context_size: int | None = None) -> None:
        weights = name.encode()
        await put_blob(self.store, weights)
        artifact = build_artifact([layer_of(weights)], ModelConfig(format="gguf", context_size=context_size))
        model = await self.store.add(artifact)
        await self.store.tag(model.id, parse_reference(name, ReferencePolicy()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        self.engine.transport = InMemoryTransport()
        spec = BackendSpec(
            name="fake",
            summary="A fake",
            factory=lambda _context: self.engine,
            formats=frozenset({Format.GGUF}),
            modes=frozenset(EngineMode),
            section="llamacpp",
        )
        overrides = Overrides(
            store=self.store,
            configs=self.configs,
            transport=self.engine.transport,
            processes=FakeProcessSupervisor(),
            model_files=InMemoryModelFiles(),
            entry_points=(),
            backends=(spec,),
        )
        settings = Settings(models_path=Path("/nowhere"), max_runners=4)
        async with open_service(settings, overrides) as service:
            yield Running(service, self.engine)


@attrs.frozen
class Running:
    service: Service
    engine: FakeEngine

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def configure(self, name: str, mode: str = "completion", method: str = "POST", **change: Any) -> Answer:
        change = {key.replace("__", "-"): value for key, value in change.items()}
        return await self.call(method, "/engines/_configure", {"model": name, "mode": mode, **change})

    async def stored(self, name: str = "one") -> dict[str, Any]:
        """Settings by mode."""
        entries = (await self.call("GET", f"/engines/_configure?model={name}")).json()
        return {entry["Mode"]: entry["Config"] for entry in entries}

    async def chat(self, name: str = "one", **extra: Any) -> Answer:
        return await self.call("POST", "/v1/chat/completions", {"model": name, "messages": [], **extra})

    async def started(self, count: int) -> FakeRunningEngine:
        """The engine that was started as the ``count``-th, once it is ready and nobody uses it."""
        runners = self.service.services.scheduler.runners
        await until(
            lambda: len(self.engine.started) >= count and all(view.idle_since is not None for view in runners())
        )
        return self.engine.started[count - 1]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.add("one")
    await made.add("two")
    return made


@pytest.fixture
def running(world: World) -> AbstractAsyncContextManager[Running]:
    return world.running()


async def test_what_is_not_named_stays_and_null_removes(running: AbstractAsyncContextManager[Running]) -> None:
    async with running as service:
        assert (await service.configure("one", context__size=64, runtime__flags=["--temp", "0.5"])).status == 202
        await service.started(1)
        assert (await service.configure("one", method="PATCH", keep_alive="10m")).status == 202
        kept = {"context-size": 64, "runtime-flags": ["--temp", "0.5"], "keep_alive": "10m0s"}
        assert await service.stored() == {"completion": kept}

        assert (await service.configure("one", context__size=None, runtime__flags=["-c", "8"])).status == 202
        assert await service.stored() == {"completion": {"runtime-flags": ["-c", "8"], "keep_alive": "10m0s"}}


async def test_keep_alive_and_concurrency_change_a_busy_runner_as_it_is(world: World) -> None:
    async with world.running() as service:
        await service.chat()
        inference = service.service.services.inference
        with await inference.lease(inference.plan("one", EngineMode.COMPLETION, None)):
            assert (await service.configure("one", keep_alive="-1", max__concurrency=1)).status == 202
            await service.service.services.scheduler.decided()
            (view,) = service.service.services.scheduler.runners()
            assert view.keep_alive == KeepAlive.forever()
            assert service.service.services.scheduler.try_lease(view.key) is None
        assert len(world.engine.started) == 1


async def test_only_a_change_that_names_the_keep_alive_takes_back_what_a_request_asked_for(world: World) -> None:
    async with world.running() as service:
        scheduler = service.service.services.scheduler

        async def kept() -> str:
            await scheduler.decided()
            (view,) = scheduler.runners()
            return str(view.keep_alive)

        await service.configure("one", keep_alive="10m", max__concurrency=3)
        await service.started(1)
        await service.chat(keep_alive="-1")
        assert await kept() == "-1"
        changes: tuple[dict[str, Any], ...] = ({}, {"max__concurrency": 3}, {"max__concurrency": 2})
        for change in changes:
            assert (await service.configure("one", **change)).status == 202
            assert await kept() == "-1"
        assert (await service.configure("one", keep_alive="10m")).status == 202
        assert await kept() == "10m0s"
        await service.chat(keep_alive="-1")
        assert (await service.call("DELETE", "/engines/_configure?model=one")).status == 200
        assert await kept() == "5m0s"
        assert len(world.engine.started) == 1


async def test_a_load_that_waited_for_room_has_what_was_configured_meanwhile(world: World) -> None:
    for name in ("a", "b", "c", "d"):
        await world.add(name)
    async with world.running() as service:
        inference, scheduler = service.service.services.inference, service.service.services.scheduler
        plans = [inference.plan(name, EngineMode.COMPLETION, None) for name in ("a", "b", "c", "d", "one")]
        held = [await inference.lease(plan) for plan in plans[:4]]
        waiting = asyncio.create_task(inference.lease(plans[4]))
        await until(scheduler.waiting)
        assert (await service.configure("one", keep_alive="-1", max__concurrency=1)).status == 202
        for lease in held:
            lease.release()
        with await waiting:
            await scheduler.decided()
            (view,) = [view for view in scheduler.runners() if view.alias == "one"]
            assert view.keep_alive == KeepAlive.forever()
            assert scheduler.try_lease(view.key) is None


async def test_a_busy_runner_is_not_restarted(world: World) -> None:
    async with world.running() as service:
        await service.chat()
        inference = service.service.services.inference
        body = {"model": "one", "context-size": 32}
        with await inference.lease(inference.plan("one", EngineMode.COMPLETION, None)):
            answer = await service.call("POST", "/engines/_configure", body)
            assert (409, True) == (answer.status, "'one' is answering 1 request(s)" in answer.text)
            stock = await service.call("POST", "/engines/_configure", body, headers=STOCK)
            assert (409, "runner already active\n") == (stock.status, stock.text)
            same = await service.configure("one")
            assert same.status == 202
        assert await service.stored() == {}
        assert len(world.engine.started) == 1


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_load_that_somebody_waits_for_never_comes_up_with_older_settings(world: World, turns: int) -> None:
    """Whenever the settings come: before the load is decided on, while it is, or while the engine starts."""
    async with world.running() as service:
        world.engine.ready.clear()
        waiting = asyncio.create_task(service.chat())
        for _ in range(turns):
            await asyncio.sleep(0)
        answer = await service.configure("one", context__size=32)
        assert answer.status in (202, 409)
        assert (await service.stored() == {}) is (answer.status == 409)
        await asyncio.sleep(0)
        world.engine.ready.set()
        assert (await waiting).status == 200
        (served,) = [engine for engine in world.engine.started if not engine.stopped]
        assert served.request.config.context_size == (32 if answer.status == 202 else None)


async def test_once_a_request_waits_the_answer_is_409(world: World) -> None:
    async with world.running() as service:
        world.engine.ready.clear()
        waiting = asyncio.create_task(service.chat())
        await until(lambda: world.engine.started)
        answer = await service.configure("one", context__size=32)
        assert (409, True) == (answer.status, "a request waits for it to be loaded" in answer.text)
        world.engine.ready.set()
        assert (await waiting).status == 200


async def test_settings_that_follow_each_other_at_once_are_all_taken(world: World) -> None:
    """What was only being loaded because of the settings before is in nobody's way."""
    async with world.running() as service:
        world.engine.ready.clear()
        for size in range(1, 20):
            assert (await service.configure("one", context__size=size)).status == 202
            for _ in range(size):
                await asyncio.sleep(0)
        world.engine.ready.set()
        await until(lambda: world.engine.started and not world.engine.started[-1].stopped)
        await service.chat()
        alive = [engine for engine in world.engine.started if not engine.stopped]
        assert [engine.request.config.context_size for engine in alive] == [19]


async def test_changes_at_the_same_time_are_both_kept(world: World) -> None:
    async with world.running() as service:
        world.engine.ready.clear()
        await service.configure("one", context__size=32)
        await until(lambda: world.engine.started)  # so that each has to wait for that load to be given up
        answers = await asyncio.gather(
            service.configure("one", context__size=64), service.configure("one", runtime__flags=["-c", "8"])
        )
        assert {answer.status for answer in answers} == {202}
        assert await service.stored() == {"completion": {"context-size": 64, "runtime-flags": ["-c", "8"]}}


async def test_the_model_is_loaded_in_the_mode_that_was_configured(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", mode="embedding", context__size=64)
        assert (await service.started(1)).request.mode is EngineMode.EMBEDDING
        assert len(world.engine.started) == 1


async def test_modes_without_settings_of_their_own_are_reloaded_with_those_for_completion(world: World) -> None:
    async with world.running() as service:
        inference = service.service.services.inference
        plan = inference.plan("one", RERANKING, None)
        (await inference.lease(plan)).release()
        await service.configure("one", context__size=64)
        await until(lambda: world.engine.started[0].stopped)
        (await inference.lease(plan)).release()
        reranking = [engine for engine in world.engine.started if engine.request.mode is RERANKING]
        assert reranking[-1].request.config.context_size == 64

        await service.configure("one", mode="reranking", context__size=32)
        await until(lambda: reranking[-1].stopped)
        answer = await service.call("DELETE", "/engines/_configure?model=one&mode=reranking")
        assert (200, {"forgotten": 1}) == (answer.status, answer.json())
        (await inference.lease(plan)).release()
        assert world.engine.started[-1].request.config.context_size == 64


async def test_a_mode_that_is_left_with_no_settings_has_those_for_completion(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", context__size=64)
        inference = service.service.services.inference
        plan = inference.plan("one", RERANKING, None)
        with await inference.lease(plan):  # busy: it must not have to be restarted
            assert (await service.configure("one", mode="reranking")).status == 202
        assert await service.stored() == {"completion": {"context-size": 64}}

        await service.configure("one", mode="reranking", context__size=32)
        await service.configure("one", mode="reranking", context__size=None)
        assert await service.stored() == {"completion": {"context-size": 64}}
        (await inference.lease(plan)).release()
        served = [engine for engine in world.engine.started if engine.request.mode is RERANKING and not engine.stopped]
        assert [engine.request.config.context_size for engine in served] == [64]


async def test_another_draft_model_lets_go_of_the_runner_with_the_one_before(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", speculative={"draft_model": "two"})
        first = await service.started(1)
        assert first.request.draft is not None
        await service.configure("one", speculative={"draft_model": "one"})
        second = await service.started(2)
        assert first.stopped
        assert second.request.draft is not None
        assert second.request.draft != first.request.draft


async def test_a_draft_model_has_to_be_in_the_store(world: World) -> None:
    async with world.running() as service:
        answer = await service.configure("one", speculative={"draft_model": "nope"})
        assert (400, True) == (answer.status, "'nope' is not in the store; run `dmr pull nope`" in answer.text)
        assert await service.stored() == {}

        await service.configure("one", speculative={"draft_model": "two"})
        await service.started(1)
        await service.call("POST", "/engines/unload", {"all": True})
        await service.call("DELETE", "/models/two")
        answer = await service.chat()
        assert answer.status == 412
        assert "failed to get draft model: 'two'" in answer.json()["error"]["message"]


async def test_a_draft_model_has_to_be_of_the_same_format(world: World) -> None:
    weights = layer_of(b"safe", LayerType.SAFETENSORS)
    await put_blob(world.store, b"safe")
    model = await world.store.add(build_artifact([weights], ModelConfig(format="safetensors")))
    await world.store.tag(model.id, parse_reference("safe", ReferencePolicy()))
    async with world.running() as service:
        answer = await service.configure("one", speculative={"draft_model": "safe"})
        assert (400, True) == (answer.status, "their weights are of different formats" in answer.text)


async def test_settings_survive_a_restart(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", context__size=64, max__concurrency=2)
    async with world.running() as service:
        assert await service.stored() == {"completion": {"context-size": 64, "max-concurrency": 2}}
        await service.chat()
        assert world.engine.started[-1].request.config.context_size == 64


async def test_settings_go_with_the_model(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", context__size=64)
        await service.started(1)
        assert (await service.call("DELETE", "/models/one")).status == 200
        assert world.configs.kept == {}


async def test_reset_forgets_and_reloads_with_nothing(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", context__size=64)
        await service.configure("one", mode="embedding", context__size=32)
        await service.started(2)
        assert (await service.call("DELETE", "/engines/_configure?model=one")).json() == {"forgotten": 2}
        assert (await service.stored(), world.configs.kept) == ({}, {})
        await until(lambda: all(engine.stopped for engine in world.engine.started))
        await service.chat()
        assert world.engine.started[-1].request.config.context_size is None
        assert (await service.call("DELETE", "/engines/_configure?model=nope")).status == 404
        assert (await service.call("DELETE", "/engines/_configure")).status == 400


async def test_reset_forgets_everything_or_nothing(world: World) -> None:
    async with world.running() as service:
        for mode in ("completion", "embedding", "reranking"):
            await service.configure("one", mode=mode, context__size=64)
        await service.started(3)
        before = await service.stored()
        inference = service.service.services.inference
        # Reranking has what completion has, and would lose both.
        for mode in (EngineMode.EMBEDDING, RERANKING):
            with await inference.lease(inference.plan("one", mode, None)):
                assert (await service.call("DELETE", "/engines/_configure?model=one")).status == 409
                assert await service.stored() == before
        assert not any(engine.stopped for engine in world.engine.started)


async def test_reset_in_a_body_is_as_good(world: World) -> None:
    async with world.running() as service:
        for mode in ("completion", "embedding"):
            await service.configure("one", mode=mode, context__size=64)
        await service.started(2)

        async def reset(**more: Any) -> Answer:
            return await service.call("POST", "/engines/_configure", {"model": "one", "reset": True, **more})

        mixed = await reset(**{"context-size": 8})
        assert (400, True) == (mixed.status, "context-size sets one" in mixed.text)
        assert (await reset(reset="yes")).status == 400
        assert set(await service.stored()) == {"completion", "embedding"}
        one = await reset(mode="embedding")
        assert (200, {"forgotten": 1}) == (one.status, one.json())
        assert set(await service.stored()) == {"completion"}
        assert (await reset(reset=False)).status == 202
        assert (await reset()).json() == {"forgotten": 1}
        assert await service.stored() == {}
        assert (await service.call("DELETE", "/engines/nope/_configure?model=one")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/engines/_configure", {"model": "one", "max-concurrency": 3}),
        ("DELETE", "/engines/_configure?model=one", b""),
        ("POST", "/engines/unload", {"models": ["one"]}),
    ],
)
async def test_a_model_that_failed_may_be_tried_again_once_somebody_did_something_about_it(
    world: World, method: str, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as service:
        inference, scheduler = service.service.services.inference, service.service.services.scheduler
        key = inference.plan("one", EngineMode.COMPLETION, None).key
        forgiven: list[object] = []
        monkeypatch.setattr(scheduler, "forgive", forgiven.append)
        await service.call(method, path, body)
        assert forgiven == [key.model_id]


async def test_what_cannot_be_written_is_not_in_force(world: World) -> None:
    async with world.running() as service:
        await service.configure("one", context__size=64)
        await service.started(1)
        world.configs.fail_with = StoreUnwritableError("the disk is gone")
        assert (await service.configure("one", context__size=32)).status >= 500
        assert (await service.call("DELETE", "/engines/_configure?model=one")).status >= 500
        assert await service.stored() == {"completion": {"context-size": 64}}
        await service.chat()
        assert world.engine.started[-1].request.config.context_size == 64


async def test_explain_says_what_is_known_of_an_engine_that_shows_no_arguments(world: World) -> None:
    await world.add("three", context_size=512)
    async with world.running() as service:
        await service.configure("three", llamacpp={"reasoning-budget": 5}, max__concurrency=3)
        await service.started(1)
        found = (await service.call("GET", "/dmr/v1/explain?model=three")).json()
        said = {one["name"]: (one["value"], one["source"]) for one in found["settings"]}
        assert said == {
            "accelerator": ("cpu", "runner"),
            "require": ("none", "default"),
            "context-size": ("512", "artifact"),
            "keep_alive": ("5m0s", "default"),
            "llamacpp.reasoning-budget": ("5", "configuration"),
            "max-concurrency": ("3", "configuration"),
        }
        assert (found["argv"], found["running"][0]["restart_pending"]) == ([], False)
        await service.configure("three", context__size=64)
        await service.started(2)
        found = (await service.call("GET", "/dmr/v1/explain?model=three")).json()
        (size,) = [one for one in found["settings"] if one["name"] == "context-size"]
        assert (size["value"], size["source"], size["overrode"][0]["value"]) == ("64", "configuration", "512")
        bare = (await service.call("GET", "/dmr/v1/explain?model=one")).json()
        assert ("the engine's own", "default") in [(one["value"], one["source"]) for one in bare["settings"]]


async def test_explain_of_what_is_not_there(running: AbstractAsyncContextManager[Running]) -> None:
    async with running as service:
        assert (await service.call("GET", "/dmr/v1/explain")).status == 400
        assert (await service.call("GET", "/dmr/v1/explain?model=nope")).status == 404
        assert (await service.call("GET", "/dmr/v1/explain?model=one&mode=dance")).status == 400
        assert (await service.call("GET", "/dmr/v1/explain?model=one&backend=nope")).status == 404
