"""NIMs on a Docker Engine: the stand-in of every day and a real one pass one suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import attrs
import pytest

from dmr_adapters.transport.stream_transport import StreamTransport
from dmr_backends_nim.docker_engine import DockerEngine, DockerUnreachableError
from dmr_backends_nim.docker_host import DockerHost
from dmr_backends_nim.engine import NimEngine
from dmr_backends_nim.model_source import NimModelSource
from dmr_backends_nim.settings import NimSettings
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress, ProgressKind
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.domain.secret import Login, Secret
from dmr_core.errors import (
    EngineExitedError,
    EngineUnusableError,
    ModelNotFoundError,
    RemoteModelNotFoundError,
    UnauthorizedError,
)
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import LaunchRequest, RunningEngine
from dmr_core.ports.registry import Credentials
from dmr_core.services.watching import HealthProbe
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from tests.stand_ins.fake_docker import FakeDocker, FakeImage, fake_docker
from tests.stand_ins.nim_hub import KEY, PASSWORD, USER, VARIANTS, NimHub, nim_hub


class World(Protocol):
    """A Docker Engine that has nothing yet, and a registry with :data:`VARIANTS` that wants a login."""

    @property
    def prefix(self) -> str:
        """What names of NIMs begin with."""

    @property
    def socket(self) -> Path:
        """Where the engine listens."""

    def containers(self, *, running: bool = False) -> list[str]:
        """IDs of containers."""

    def tags(self) -> set[str]:
        """Names of images under the prefix."""

    def tag(self, name: str, other: str) -> None:
        """Give an image another name."""

    def take_port(self) -> Callable[[], None]:
        """Take port 8000; call what comes back to let it go."""


@attrs.define
class _FakeWorld:
    fake: FakeDocker
    prefix: str = "registry.test:5000/nim/"

    @property
    def socket(self) -> Path:
        return self.fake.socket

    def containers(self, *, running: bool = False) -> list[str]:
        return [one.id for one in self.fake.containers.values() if one.running or not running]

    def tags(self) -> set[str]:
        return {name for name in self.fake.images if name.startswith(self.prefix)}

    def tag(self, name: str, other: str) -> None:
        self.fake.images[other] = self.fake.images[name]

    def take_port(self) -> Callable[[], None]:
        self.fake.taken_ports.add(8000)
        return self.fake.taken_ports.clear


@attrs.define
class _RealWorld:
    hub: NimHub

    @property
    def prefix(self) -> str:
        return self.hub.prefix

    @property
    def socket(self) -> Path:
        return self.hub.docker.socket

    def containers(self, *, running: bool = False) -> list[str]:
        return [one["Id"] for one in self.hub.docker.containers(running=running)]

    def tags(self) -> set[str]:
        return {tag for tag in self.hub.docker.tags() if tag.startswith(self.prefix)}

    def tag(self, name: str, other: str) -> None:
        repository, _, tag = other.rpartition(":")
        self.hub.docker.call("POST", f"/images/{name}/tag?repo={repository}&tag={tag}")

    def take_port(self) -> Callable[[], None]:
        import socket

        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 8000))
        taken.listen()
        return taken.close


class DockerEngineContract:
    """What :class:`NimEngine` and :class:`NimModelSource` promise, on the ``world`` a subclass gives."""

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        return tmp_path / "cache"

    @pytest.fixture
    def docker(self, world: World) -> DockerEngine:
        return DockerEngine(DockerHost(world.socket))

    @pytest.fixture
    def source(self, world: World, docker: DockerEngine, cache: Path) -> NimModelSource:
        return NimModelSource(settings_of(world, cache), context_of(), docker)

    @pytest.fixture
    def engine(self, world: World, docker: DockerEngine, cache: Path) -> NimEngine:
        return NimEngine(settings_of(world, cache), context_of(), docker)

    async def test_a_pull_tells_how_far_it_is_and_the_image_is_a_model(
        self, world: World, source: NimModelSource
    ) -> None:
        before, reference = source.generation, named(world, "stand-in/model:1.0")

        lines = await pulled(source, reference)

        assert lines[-1].kind is ProgressKind.SUCCESS
        layers = [line.layer for line in lines if line.layer is not None]
        assert layers
        assert all(0 <= layer.current <= layer.size for layer in layers)
        assert any(line.total for line in lines)
        assert next(line.message for line in lines if line.kind is ProgressKind.WARNING).startswith("no NVIDIA GPU")
        assert source.generation > before
        (model,) = source.models()
        assert (model.tags, model.backend) == ((str(reference),), "nim")
        assert source.find(reference) is model
        assert await source.disk_usage() == model.size > 0
        again = await pulled(source, reference)
        assert "cached" in again[-1].message

    async def test_a_look_that_finds_nothing_new_changes_nothing(self, world: World, source: NimModelSource) -> None:
        await pulled(source, named(world, "stand-in/model:1.0"))
        generation, models = source.generation, source.models()

        await source.refresh()

        assert source.generation == generation
        assert all(one is other for one, other in zip(models, source.models(), strict=True))

    async def test_a_wrong_login_is_refused_and_not_told(self, world: World, source: NimModelSource) -> None:
        reference = named(world, "stand-in/model:1.0")
        wrong = Credentials(login=Login(reference.registry, USER, Secret("not-the-password")))

        with pytest.raises(UnauthorizedError, match="the login that came with the request") as raised:
            [_ async for _ in source.pull(reference, wrong)]
        with pytest.raises(UnauthorizedError, match="docker login"):
            [_ async for _ in source.pull(reference, None)]

        assert "not-the-password" not in raised.value.message
        assert world.tags() == set()

    async def test_what_the_registry_does_not_have_is_not_found(self, world: World, source: NimModelSource) -> None:
        reference = named(world, "stand-in/nothing:1.0")

        with pytest.raises(RemoteModelNotFoundError):
            [_ async for _ in source.pull(reference, login_of(reference))]

    async def test_a_container_is_started_asked_for_its_name_stopped_and_started_again(
        self, world: World, source: NimModelSource, engine: NimEngine, cache: Path
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))

        async with started(engine, model) as running:
            await ready(running)
            await running.introduce()
            assert running.served == "stand-in/model"
            assert (running.endpoint.host, running.endpoint.socket) == ("127.0.0.1", None)
            assert (running.pid, running.argv) == (None, ())
            assert await running.cpu_seconds() is not None
            (first,) = world.containers(running=True)
            assert await engine.left_running() == (model.tags[0],)
        assert (world.containers(running=True), world.containers()) == ([], [first])
        assert await asyncio.to_thread(cache.is_dir)

        async with started(engine, model) as running:
            await ready(running)
            await running.introduce()
            assert world.containers(running=True) == [first]

    async def test_one_that_runs_is_used_by_another_engine(
        self, world: World, source: NimModelSource, engine: NimEngine, cache: Path
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))
        running = await engine.start(LaunchRequest(model=model, alias=model.name))
        await ready(running)
        await running.introduce()
        engine.leave()
        await running.stop(1.0)
        (before,) = world.containers(running=True)

        later = NimEngine(settings_of(world, cache), context_of(), DockerEngine(DockerHost(world.socket)))
        async with started(later, model) as again:
            await ready(again)
            await again.introduce()
            assert world.containers(running=True) == [before]

    async def test_two_runners_share_a_container_that_the_last_one_stops(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))
        async with started(engine, model) as one:
            await ready(one)
            await one.introduce()
            async with started(engine, model) as other:
                await other.introduce()
                assert one.endpoint == other.endpoint
            assert len(world.containers(running=True)) == 1
        assert world.containers(running=True) == []

    async def test_other_settings_and_another_key_make_another_container(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))
        seen = set()
        for key, context in ((None, None), (Secret("a-key"), None), (Secret("other-key"), None), (None, 4096)):
            config = attrs.evolve(LaunchRequest(model=model, alias="x").config, context_size=context)
            running = await engine.start(LaunchRequest(model=model, alias=model.name, config=config, key=key))
            await ready(running)
            await running.introduce()
            seen.update(world.containers())
            assert len(world.containers()) == 1
            await running.stop(1.0)
        assert len(seen) == 4

    async def test_another_port_where_the_usual_one_is_taken(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))
        let_go = world.take_port()
        try:
            async with started(engine, model) as running:
                await ready(running)
                assert running.endpoint.port != 8000
                assert len(world.containers()) == 1
        finally:
            let_go()

    async def test_one_that_crashes_says_so_and_is_removed(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/crash:latest"))

        end = await crashed(engine, model)

        assert (type(end), end.returncode) == (EngineExitedError, 3)
        assert "RuntimeError" in end.tail
        assert world.containers() == []

    async def test_a_refused_key_is_told_with_what_to_do_and_is_in_no_output(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/locked:latest"))

        end = await crashed(engine, model, Secret("not-the-right-key"))

        assert isinstance(end, EngineUnusableError)
        assert "NGC_API_KEY" in end.remedy
        assert "using key ***" in end.tail
        assert "not-the-right-key" not in end.message
        assert world.containers() == []
        async with started(engine, model, Secret(KEY)) as running:
            await ready(running)

    async def test_a_start_that_is_cancelled_leaves_no_container(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))

        for turns in (1, 5, 20, 60):
            starting = asyncio.ensure_future(engine.start(LaunchRequest(model=model, alias=model.name)))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            try:
                running = await starting
            except asyncio.CancelledError:
                pass
            else:
                await running.stop(0.0)
            assert world.containers() == []

    async def test_removal_takes_the_containers_too(
        self, world: World, source: NimModelSource, engine: NimEngine
    ) -> None:
        model = await have(source, named(world, "stand-in/model:1.0"))
        async with started(engine, model) as running:
            await ready(running)
            await running.introduce()
        assert len(world.containers()) == 1

        await source.remove(model.id)

        assert (world.containers(), world.tags(), source.models()) == ([], set(), ())
        with pytest.raises(ModelNotFoundError):
            await engine.start(LaunchRequest(model=model, alias=model.name))

    async def test_one_name_goes_and_the_other_stays(self, world: World, source: NimModelSource) -> None:
        reference = named(world, "stand-in/model:1.0")
        await pulled(source, reference)
        world.tag(str(reference), f"{reference.name}:other")
        await source.refresh()

        await source.untag(f"{reference.name}:other")

        assert [model.tags for model in source.models()] == [(str(reference),)]

    async def test_images_of_other_names_are_neither_listed_nor_started(
        self, world: World, source: NimModelSource, engine: NimEngine, docker: DockerEngine
    ) -> None:
        reference = named(world, "stand-in/model:1.0")
        model = await have(source, reference)
        other = f"{reference.registry}/elsewhere/model:1.0"
        world.tag(str(reference), other)
        await docker.remove_image(str(reference))
        await source.refresh()

        assert source.models() == ()
        with pytest.raises(Exception, match="only images under"):
            await engine.start(LaunchRequest(model=model, alias=model.name))
        assert world.containers() == []

    async def test_without_an_engine_everything_says_what_is_missing(
        self, world: World, cache: Path, tmp_path: Path
    ) -> None:
        nobody = DockerEngine(DockerHost(tmp_path / "nobody.sock"))
        source = NimModelSource(settings_of(world, cache), context_of(), nobody)
        reference = named(world, "stand-in/model:1.0")

        await source.refresh()
        with pytest.raises(DockerUnreachableError, match="start it"):
            [_ async for _ in source.pull(reference, None)]

        assert source.models() == ()
        assert await NimEngine(settings_of(world, cache), context_of(), nobody).left_running() == ()


class TestFake(DockerEngineContract):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        async with fake_docker(tmp_path) as fake:
            made = _FakeWorld(fake)
            fake.login = (USER, PASSWORD)
            fake.registry = {made.prefix + name: FakeImage(environment) for name, environment in VARIANTS.items()}
            yield made


@pytest.fixture(scope="module")
def hub() -> Iterator[NimHub]:
    with nim_hub() as made:
        yield made


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.timeout(300)
class TestReal(DockerEngineContract):
    @pytest.fixture
    def world(self, hub: NimHub) -> Iterator[World]:
        hub.clear()
        yield _RealWorld(hub)
        hub.clear()


def settings_of(world: World, cache: Path) -> NimSettings:
    return NimSettings(prefix=world.prefix, cache=cache, docker=DockerHost(world.socket))


def context_of() -> EngineContext:
    return EngineContext(processes=FakeProcessSupervisor())


def named(world: World, image: str) -> Reference:
    return parse_reference(world.prefix + image, ReferencePolicy())


def login_of(reference: Reference) -> Credentials:
    return Credentials(login=Login(reference.registry, USER, Secret(PASSWORD)))


async def pulled(source: NimModelSource, reference: Reference) -> list[Progress]:
    return [line async for line in source.pull(reference, login_of(reference))]


async def have(source: NimModelSource, reference: Reference) -> Model:
    await pulled(source, reference)
    model = source.find(reference)
    assert model is not None
    return model


@asynccontextmanager
async def started(engine: NimEngine, model: Model, key: Secret | None = None) -> AsyncIterator[RunningEngine]:
    running = await engine.start(LaunchRequest(model=model, alias=model.name, key=key))
    try:
        yield running
    finally:
        await running.stop(1.0)
        assert isinstance(await running.wait(), EngineExitedError)


async def ready(running: RunningEngine) -> None:
    transport = StreamTransport()
    probe = HealthProbe(transport, running.endpoint, "/v1/health/ready")
    try:
        async with asyncio.timeout(30):
            while not await probe.healthy(5.0):
                await asyncio.sleep(0.02)
    finally:
        await transport.aclose()


async def crashed(engine: NimEngine, model: Model, key: Secret | None = None) -> EngineExitedError:
    """Why it ended; where that was at once, starting it says so already."""
    try:
        running = await engine.start(LaunchRequest(model=model, alias=model.name, key=key))
    except EngineExitedError as exc:
        return exc
    try:
        async with asyncio.timeout(30):
            return await running.wait()
    finally:
        await running.stop(1.0)
