"""Models that a backend keeps itself: found, listed and removed like any other, and used for nothing that needs files."""

from __future__ import annotations

import attrs
import pytest

from dmr_core.domain.artifact import Format
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode, RunnerKey, Speculative
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.model import Model
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.secret import Login, Secret
from dmr_core.errors import (
    ConflictError,
    EngineExitedError,
    InvalidConfigurationError,
    ModelInUseError,
    ModelNotFoundError,
    UnsupportedFormatError,
    UpstreamError,
)
from dmr_core.ports.engine import LaunchRequest, RunningEngine
from dmr_core.ports.registry import Credentials
from dmr_core.ports.transport import Endpoint
from dmr_core.services.backends import Backend, BackendService
from dmr_core.services.catalog import CatalogService, Removal
from dmr_core.services.drafts import check_draft
from dmr_core.services.launching import LaunchingService
from dmr_core.services.scheduling.events import Launch
from dmr_core.testing.contracts.model_store import put_model
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.model_source import InMemoryModelSource
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.transport import InMemoryTransport

POLICY = ReferencePolicy()
NAME = "kept.example/one:latest"


@attrs.frozen
class World:
    store: InMemoryModelStore
    source: InMemoryModelSource
    catalog: CatalogService


@pytest.fixture
def world() -> World:
    store, source = InMemoryModelStore(), InMemoryModelSource()
    return World(store, source, CatalogService(store, POLICY, (source,)))


async def stored(world: World, name: str = "stored") -> Model:
    made = await put_model(world.store, name.encode())
    await world.store.tag(made.id, parse_reference(name, POLICY))
    found = world.store.by_id(made.id)
    assert found is not None
    return found


async def test_a_kept_model_answers_to_every_form_of_its_names(world: World) -> None:
    await stored(world)
    model = world.source.keep(NAME, b"kept")

    for text in ("kept.example/one", NAME, str(model.id), model.id.hex, model.id.short):
        assert world.catalog.find(text) is model
    assert world.catalog.by_id(model.id) is model
    assert world.catalog.list()[-1] is model
    assert len(world.catalog.list()) == 2


async def test_names_are_looked_up_anew_once_the_source_has_changed(world: World) -> None:
    world.source.keep(NAME, b"before")
    before, generation = world.catalog.find(NAME), world.catalog.generation

    await world.source.remove(before.id)
    after = world.source.keep(NAME, b"after")

    assert world.catalog.generation > generation
    assert world.catalog.find(NAME) is after
    assert world.catalog.by_id(before.id) is None


async def test_only_the_source_that_may_have_a_name_is_asked_again(world: World) -> None:
    await stored(world)
    world.source.appears[NAME] = b"kept"

    await world.catalog.find_fresh("stored")
    assert world.source.refreshed == 0
    assert (await world.catalog.find_fresh(NAME)).tags == (NAME,)
    await world.catalog.refresh()
    assert world.source.refreshed == 2


async def test_a_source_that_fails_costs_no_other_model(world: World, caplog: pytest.LogCaptureFixture) -> None:
    model = await stored(world)

    async def broken() -> None:
        raise RuntimeError("no idea")

    world.source.refresh = broken  # type: ignore[method-assign]
    await world.catalog.refresh()

    assert world.catalog.list() == (model,)
    assert "no idea" in caplog.text


async def test_removing_goes_to_the_source_name_by_name(world: World) -> None:
    world.source.keep(NAME, b"kept")
    model = world.source.keep("kept.example/two:latest", b"kept")
    released: list[Digest] = []

    async def release(model_id: Digest) -> None:
        released.append(model_id)

    world.catalog.protect(lambda _id: False, release)

    with pytest.raises(ConflictError, match="must be forced"):
        await world.catalog.remove(str(model.id))
    assert await world.catalog.remove("kept.example/two") == Removal(("kept.example/two:latest",), None)
    assert released == []
    assert await world.catalog.remove(NAME) == Removal((NAME,), model.id)
    assert released == [model.id]
    assert world.catalog.list() == ()


async def test_one_that_is_used_is_not_removed(world: World) -> None:
    world.source.keep(NAME, b"kept")
    world.catalog.protect(lambda _id: True)

    with pytest.raises(ModelInUseError):
        await world.catalog.remove(NAME)


async def test_disk_usage_counts_both(world: World) -> None:
    await stored(world)
    world.source.keep(NAME, b"kept")

    assert await world.catalog.disk_usage() == await world.store.disk_usage() + len(b"kept")


async def test_what_needs_files_is_refused_with_who_keeps_it(world: World) -> None:
    world.source.keep(NAME, b"kept")

    with pytest.raises(UnsupportedFormatError, match="'keeper' keeps it"):
        await world.catalog.find_stored(NAME)
    with pytest.raises(UnsupportedFormatError, match="'keeper' keeps it"):
        await world.catalog.tag(NAME, "mine:1")
    with pytest.raises(ModelNotFoundError):
        await world.catalog.find_stored("kept.example/other")


async def test_a_kept_model_is_no_draft_and_has_none(world: World) -> None:
    model, kept = await stored(world), world.source.keep(NAME, b"kept")

    for one, draft in ((model, NAME), (kept, "stored")):
        config = EngineConfig(speculative=Speculative(draft_model=draft))
        with pytest.raises(InvalidConfigurationError, match="both have to be in the store"):
            check_draft(world.catalog, one, config)


@attrs.frozen
class Strange(RunningEngine):
    """A running engine that names no model."""

    running: RunningEngine

    @property
    def endpoint(self) -> Endpoint:
        return self.running.endpoint

    @property
    def argv(self) -> tuple[str, ...]:
        return ()

    async def introduce(self) -> None:
        raise UpstreamError("it names no model")

    async def wait(self) -> EngineExitedError:
        return await self.running.wait()

    async def stop(self, grace: float) -> None:
        await self.running.stop(grace)


class Keeper(FakeEngine):
    """Remembers what it was asked to start; can be made to fail in other ways than the fake of everybody."""

    def __init__(self, transport: InMemoryTransport, name: str = "keeper") -> None:
        super().__init__(transport, name=name)
        self.asked: list[LaunchRequest] = []
        self.left = 0
        self.broken = False
        self.introduces = True

    async def start(self, request: LaunchRequest) -> RunningEngine:
        self.asked.append(request)
        running = await super().start(request)
        return running if self.introduces else Strange(running)

    def leave(self) -> None:
        self.left += 1
        if self.broken:
            raise RuntimeError("no idea")

    async def left_running(self) -> tuple[str, ...]:
        if self.broken:
            raise RuntimeError("no idea")
        return (NAME,)


def backends() -> BackendService:
    transport = InMemoryTransport()
    keeper, llama, anything = (FakeEngine(transport, name=name) for name in ("keeper", "llama.cpp", "anything"))
    specs = [
        fake_backend(keeper, frozenset(), model_source=lambda _context: InMemoryModelSource()),
        fake_backend(llama),
        fake_backend(anything, frozenset()),
    ]
    return BackendService(
        {spec.name: Backend(spec, one) for spec, one in zip(specs, (keeper, llama, anything), strict=True)}
    )


async def test_only_the_keeper_serves_a_kept_model_whatever_is_asked_for(world: World) -> None:
    service, model = backends(), world.source.keep(NAME, b"kept")
    await service.refresh()

    chosen = service.choose(model, EngineMode.COMPLETION, None)
    assert (chosen.name, chosen.reason) == ("keeper", "claimed")
    assert service.choose(model, EngineMode.COMPLETION, "keeper").name == "keeper"
    assert service.choose(model, EngineMode.COMPLETION, "llama.cpp", lenient=True).name == "keeper"
    for other in ("llama.cpp", "anything"):
        with pytest.raises(UnsupportedFormatError, match="'keeper' keeps it; 'keeper' can"):
            service.choose(model, EngineMode.COMPLETION, other)


async def test_a_keeper_of_models_is_given_no_model_of_the_store(world: World) -> None:
    service, model = backends(), await stored(world)
    await service.refresh()

    assert model.format is Format.GGUF
    with pytest.raises(UnsupportedFormatError):
        service.choose(model, EngineMode.COMPLETION, "keeper")
    unknown = attrs.evolve(
        model, config=attrs.evolve(model.config, format=""), manifest=attrs.evolve(model.manifest, layers=())
    )
    assert unknown.format is None
    with pytest.raises(UnsupportedFormatError):
        service.choose(unknown, EngineMode.COMPLETION, "keeper")


def launching(world: World, engine: Keeper, transport: InMemoryTransport) -> LaunchingService:
    return LaunchingService(
        store=world.store,
        backends=BackendService({"keeper": Backend(fake_backend(engine), engine)}),
        transport=transport,
        clock=FakeClock(),
        sources=(world.source,),
    )


async def test_a_kept_model_is_launched_without_files_and_with_the_key_that_came_along(world: World) -> None:
    model, transport = world.source.keep(NAME, b"kept"), InMemoryTransport()
    engine, secret = Keeper(transport), Secret("my-key")
    key = RunnerKey("keeper", model.id, EngineMode.COMPLETION)

    launch = Launch(alias=NAME, keep_alive=KeepAlive(1.0), secret=secret)
    running = await launching(world, engine, transport).launch(key, launch)
    await running.stop(0)

    (request,) = engine.asked
    assert (request.model, request.key) == (model, secret)
    assert "my-key" not in repr(request)
    with pytest.raises(UnsupportedFormatError, match="kept by 'keeper'"):
        request.bundle  # noqa: B018 - looking is what raises


async def test_an_engine_that_cannot_be_introduced_is_stopped(world: World) -> None:
    model, transport = world.source.keep(NAME, b"kept"), InMemoryTransport()
    engine = Keeper(transport)
    engine.introduces = False
    key = RunnerKey("keeper", model.id, EngineMode.COMPLETION)

    with pytest.raises(UpstreamError, match="names no model"):
        await launching(world, engine, transport).launch(key, Launch(alias=NAME))

    assert [one.stopped for one in engine.started] == [True]


async def test_a_plugin_that_cannot_leave_or_tell_costs_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    transport = InMemoryTransport()
    good, bad = Keeper(transport, "good"), Keeper(transport, "bad")
    bad.broken = True
    service = BackendService({one.name: Backend(fake_backend(one), one) for one in (bad, good)})

    service.leave()

    assert (good.left, bad.left) == (1, 1)
    assert await service.left_running() == (NAME,)
    assert "no idea" in caplog.text


def test_secrets_are_shown_to_nobody() -> None:
    login = Login("nvcr.io", "$oauthtoken", Secret("hidden-one"), Secret("hidden-two"))
    credentials = Credentials("hidden-three", login, Secret("hidden-four"))
    launch = Launch(alias="x", secret=Secret("hidden-five"))

    for shown in (repr(login), repr(credentials), str(credentials), repr(launch), f"{launch.secret}"):
        assert "hidden" not in shown
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert not Secret("")
    assert Secret("a").reveal() == "a"
