"""From a runner key to an engine that answers, or to nothing at all."""

from __future__ import annotations

import asyncio
import itertools

import attrs
import pytest

from dmr_core.domain.acceleration import Accelerator, GpuRequirement, Placement
from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode, RunnerKey
from dmr_core.domain.gpu import GpuDevice
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import (
    BackendNotFoundError,
    EngineExitedError,
    EngineNotAcceleratedError,
    EngineStartTimeoutError,
    EngineUnusableError,
    ModelNotFoundError,
    UpstreamError,
)
from dmr_core.ports.engine import EngineProcess, LaunchRequest, RunningEngine
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint
from dmr_core.services import launching as module
from dmr_core.services.acceleration import AccelerationService
from dmr_core.services.backends import Backend, BackendService
from dmr_core.services.launching import LaunchingService
from dmr_core.services.scheduling.events import Launch
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.engine import FakeEngine, FakeRunningEngine, fake_backend
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor, ProcessScript
from dmr_core.testing.fakes.transport import Answer, InMemoryTransport

START_TIMEOUT = 60.0


class RememberingTransport(InMemoryTransport):
    """Knows which endpoints it was told to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[Endpoint] = []

    async def forget(self, endpoint: Endpoint) -> None:
        self.forgotten.append(endpoint)


@attrs.frozen
class World:
    store: InMemoryModelStore
    transport: RememberingTransport
    clock: FakeClock
    engine: FakeEngine
    service: LaunchingService

    async def add(self, weights: bytes, context_size: int | None = None) -> Digest:
        await put_blob(self.store, weights)
        artifact = build_artifact([layer_of(weights)], ModelConfig(format="gguf", context_size=context_size))
        return (await self.store.add(artifact)).id

    async def launch(
        self, model_id: Digest, config: EngineConfig | None = None, draft: Digest | None = None
    ) -> RunningEngine:
        key = RunnerKey("fake", model_id, EngineMode.COMPLETION, draft)
        launch = Launch(alias="one", config=config or EngineConfig(), keep_alive=KeepAlive(300.0))
        return await self.service.launch(key, launch)

    async def loading(self, model_id: Digest) -> tuple[asyncio.Task[RunningEngine], FakeRunningEngine]:
        """A load that waits for its engine, and that engine."""
        self.engine.ready.clear()
        task = asyncio.create_task(self.launch(model_id))
        await self.clock.advance(1.0)
        return task, self.engine.started[-1]

    def left(self) -> tuple[int, int]:
        """What must be gone after a load: sleepers on the clock, and answers nobody closed."""
        return self.clock.sleepers, len(self.transport.open_responses)


@pytest.fixture
def world() -> World:
    store, transport, clock = InMemoryModelStore(), RememberingTransport(), FakeClock()
    engine = FakeEngine(transport)
    service = LaunchingService(
        store=store,
        backends=BackendService({"fake": Backend(fake_backend(engine), engine)}),
        transport=transport,
        clock=clock,
        start_timeout=START_TIMEOUT,
    )
    return World(store, transport, clock, engine, service)


async def test_an_engine_that_answers_is_handed_over(world: World) -> None:
    one = await world.add(b"one")
    running = await world.launch(one)

    model = world.store.by_id(one)
    assert model is not None
    assert [engine.endpoint for engine in world.engine.started] == [running.endpoint]
    assert world.engine.started[0].request == LaunchRequest(
        model=model, bundle=await world.store.bundle(one), alias="one"
    )
    assert world.transport.forgotten == []
    assert world.left() == (0, 0)


async def test_the_draft_model_comes_along(world: World) -> None:
    one, small = await world.add(b"one"), await world.add(b"small")
    await world.launch(one, draft=small)

    assert world.engine.started[0].request.draft == await world.store.bundle(small)


@pytest.mark.parametrize(
    ("packaged", "configured", "used"), [(None, None, None), (512, None, 512), (512, 64, 64), (None, 64, 64)]
)
async def test_a_configured_context_size_wins_over_the_packaged_one(
    world: World, packaged: int | None, configured: int | None, used: int | None
) -> None:
    await world.launch(await world.add(b"one", packaged), EngineConfig(context_size=configured))

    assert world.engine.started[0].request.config == EngineConfig(context_size=used)


async def test_an_engine_is_asked_until_it_is_healthy(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))
    asked = len(world.transport.requests)
    assert asked > 10
    assert not task.done()

    world.engine.ready.set()
    await world.clock.advance(0.25)
    assert (await task).endpoint == engine.endpoint
    assert len(world.transport.requests) == asked + 1
    assert world.left() == (0, 0)


async def test_an_engine_that_does_not_listen_yet_is_waited_for(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))
    world.transport.silence(engine.endpoint)
    await world.clock.advance(10.0)
    assert not task.done()

    async def healthy(_request: object) -> Answer:
        return Answer(200)

    world.transport.serve(engine.endpoint, healthy)
    await world.clock.advance(0.25)
    assert (await task).endpoint == engine.endpoint


async def test_a_probe_that_hangs_is_given_up_and_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROBE_TIMEOUT", 0.01)
    hanging = asyncio.Event()

    async def first_hangs(_request: object) -> Answer:
        if not hanging.is_set():
            hanging.set()
            await asyncio.get_running_loop().create_future()
        return Answer(200)

    task, engine = await world.loading(await world.add(b"one"))
    world.transport.serve(engine.endpoint, first_hangs)
    await world.clock.advance(0.25)
    async with asyncio.timeout(10):
        while world.clock.sleepers < 2:
            await asyncio.sleep(0)
    await world.clock.advance(0.25)

    assert hanging.is_set()
    assert (await task).endpoint == engine.endpoint
    assert world.left() == (0, 0)


async def test_an_engine_that_ends_while_it_loads_says_why_at_once(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))
    engine.crash(-9)

    with pytest.raises(EngineExitedError, match="fake was killed by signal 9"):
        await task
    assert engine.stopped
    assert world.transport.forgotten == [engine.endpoint]
    assert world.left() == (0, 0)


async def test_an_engine_that_is_never_ready_is_stopped_when_its_time_is_up(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))
    await world.clock.advance(START_TIMEOUT - 2.0)
    assert not task.done()

    await world.clock.advance(1.0)
    with pytest.raises(EngineStartTimeoutError, match="fake did not become ready within 60 s"):
        await task
    assert engine.stopped
    assert world.transport.forgotten == [engine.endpoint]
    assert world.left() == (0, 0)


async def test_a_cancelled_load_leaves_no_engine(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.stopped
    assert world.transport.forgotten == [engine.endpoint]
    assert world.left() == (0, 0)


async def test_a_bug_in_the_transport_leaves_no_engine(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))

    async def buggy(_request: object) -> Answer:
        raise RuntimeError("a bug")

    world.transport.serve(engine.endpoint, buggy)
    await world.clock.advance(0.25)
    with pytest.raises(RuntimeError, match="a bug"):
        await task
    assert engine.stopped
    assert world.left() == (0, 0)


async def test_an_engine_that_cannot_be_started_is_told_as_it_is(world: World) -> None:
    world.engine.fail_with = UpstreamError("no such program")

    with pytest.raises(UpstreamError, match="no such program"):
        await world.launch(await world.add(b"one"))
    assert world.transport.forgotten == []


async def test_a_model_that_was_removed_meanwhile_is_not_found(world: World) -> None:
    with pytest.raises(ModelNotFoundError, match="'one'"):
        await world.launch(Digest.of(b"gone"))


async def test_a_backend_that_is_gone_is_not_found(world: World) -> None:
    key = RunnerKey("gone", await world.add(b"one"), EngineMode.COMPLETION)

    with pytest.raises(BackendNotFoundError):
        await world.service.launch(key, Launch(alias="one"))


async def test_readiness_is_looked_for_every_20_ms_in_the_first_half_minute(world: World) -> None:
    asked: list[float] = []

    async def loading(_request: object) -> Answer:
        asked.append(world.clock.monotonic())
        return Answer(503)

    task, engine = await world.loading(await world.add(b"one"))
    began = world.clock.monotonic() - 1.0
    world.transport.serve(engine.endpoint, loading)
    await world.clock.advance(49.0)

    gaps = [(later - began, later - earlier) for earlier, later in itertools.pairwise(asked)]
    assert max(gap for at, gap in gaps if at < 29.9) <= 0.02 + 1e-9
    assert max(gap for _, gap in gaps) <= 0.25 + 1e-9
    assert len(asked) < 50 * 30 + 4 * 20
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_whoever_else_answers_on_its_port_is_not_the_engine(world: World) -> None:
    task, engine = await world.loading(await world.add(b"one"))
    engine.owns = False
    world.engine.ready.set()
    await world.clock.advance(5.0)
    assert not task.done()

    engine.owns = None  # nobody can tell: it is believed
    await world.clock.advance(1.0)
    assert (await task).endpoint == engine.endpoint


async def test_a_start_that_takes_too_long_ends_with_what_the_engine_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRunningEngine, "tail", lambda _engine: "still compiling kernels")
    task, _ = await world.loading(await world.add(b"one"))
    await world.clock.advance(START_TIMEOUT)

    with pytest.raises(EngineStartTimeoutError) as caught:
        await task
    assert caught.value.message == ("fake did not become ready within 60 s\n\nVerbose output:\nstill compiling kernels")


async def test_a_loaded_engine_that_falls_silent_ends_for_whoever_waits(world: World) -> None:
    service = attrs.evolve(world.service, health_interval=10.0)
    key = RunnerKey("fake", await world.add(b"one"), EngineMode.COMPLETION)
    running = await service.launch(key, Launch(alias="one"))
    world.transport.silence(running.endpoint)
    await world.clock.advance(30.0)

    assert (await running.wait()).code == "engine_unresponsive"
    assert world.transport.forgotten == [running.endpoint]  # so that requests in flight break off now
    stopped = [world.engine.started[0].stopped]
    await running.stop(1.0)
    stopped.append(world.engine.started[0].stopped)
    assert stopped == [False, True]  # stopping it is for whoever watches the runner
    assert world.left() == (0, 0)


# --- where it computes ------------------------------------------------------------------------------

ON_GPU = Placement(devices=("CUDA0",), layers=5, total_layers=5)
H100 = Accelerator(variant="cuda", devices=(GpuDevice(index=0, name="NVIDIA H100"),))


def with_gpu(world: World) -> World:
    """The same machine with a GPU."""
    service = attrs.evolve(world.service, acceleration=AccelerationService(accelerator=H100))
    return attrs.evolve(world, service=service)


async def passing(world: World, task: asyncio.Task[RunningEngine]) -> None:
    """Time goes on until ``task`` is done, but for no longer than an engine has to tell where it computes."""
    for _ in range(100):
        if task.done():
            return
        await world.clock.advance(0.02)


async def test_where_it_computes_is_asked_once_it_is_ready_and_kept(world: World) -> None:
    world.engine.places = lambda asked: ON_GPU if asked == 0 else None
    running = await world.launch(await world.add(b"one"), EngineConfig(require=GpuRequirement.ALL_LAYERS))

    assert (ON_GPU, "") == (running.placement(), running.warning)
    assert running.placement() is ON_GPU
    assert world.engine.started[0].asked_where == 1


async def test_an_engine_that_must_tell_is_given_a_moment(world: World) -> None:
    """Its log may come out of a thread of its own, after the first healthy answer."""
    world.engine.places = lambda asked: ON_GPU if asked >= 3 else None
    launching = asyncio.create_task(world.launch(await world.add(b"one"), EngineConfig(require=GpuRequirement.GPU)))
    await passing(world, launching)

    assert (await launching).placement() is ON_GPU


@pytest.mark.parametrize("told", [None, Placement(), "CUDA0", ValueError("a bug"), SystemExit(3)])
async def test_an_engine_that_is_not_where_it_must_be_is_stopped(world: World, told: object) -> None:
    def places(_asked: int) -> Placement | None:
        if isinstance(told, BaseException):
            raise told
        return told  # type: ignore[return-value]  # what a plugin may do

    world.engine.places = places
    launching = asyncio.create_task(
        with_gpu(world).launch(await world.add(b"one"), EngineConfig(require=GpuRequirement.GPU))
    )
    await passing(world, launching)

    with pytest.raises(EngineNotAcceleratedError, match="requires a GPU"):
        await launching
    assert world.engine.started[0].stopped
    assert world.left() == (0, 0)


async def test_an_engine_that_may_be_anywhere_is_not_waited_for_and_warned_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    silent = await with_gpu(world).launch(await world.add(b"one"))
    assert (None, "") == (silent.placement(), silent.warning)

    world.engine.places = lambda _asked: Placement(cause="the driver is too old")
    on_cpu = await with_gpu(world).launch(await world.add(b"two"))
    assert "fake computes on the CPU although there is NVIDIA H100 (cuda): the driver is too old" in on_cpu.warning
    assert on_cpu.warning in caplog.text


async def test_where_a_process_computes_is_read_from_its_output() -> None:
    processes = FakeProcessSupervisor(scripts={"engine": ProcessScript(output="on CUDA0")})
    process = await processes.start(ProcessSpec(name="engine", argv=("engine",)))
    endpoint = Endpoint(socket=processes.socket_path("engine"))

    assert EngineProcess("fake", process, endpoint).placement() is None
    read = EngineProcess("fake", process, endpoint, reads_placement=lambda said: Placement(devices=(said[3:],)))
    assert str(read.placement()) == "CUDA0"
    assert read.warning == ""


async def test_the_plugin_explains_a_program_that_cannot_be_started(world: World) -> None:
    world.engine.fail_with = EngineExitedError("fake", 127, "error while loading shared libraries: libx.so: no")

    with pytest.raises(EngineUnusableError, match=r"the shared library libx\.so is missing"):
        await world.launch(await world.add(b"one"))


async def test_the_kernels_own_word_on_memory_is_believed() -> None:
    processes = FakeProcessSupervisor(scripts={"engine": ProcessScript(exits=-9, out_of_memory=True)})
    process = await processes.start(ProcessSpec(name="engine", argv=("engine",)))
    ended = await EngineProcess("fake", process, Endpoint(port=1)).wait()

    assert (ended.code, ended.returncode) == ("engine_out_of_memory", -9)
    assert "the kernel killed fake because memory ran out" in ended.message


async def test_only_a_tcp_port_needs_to_be_asked_whose_it_is() -> None:
    processes = FakeProcessSupervisor()
    process = await processes.start(ProcessSpec(name="engine", argv=("engine",)))
    port = processes.tcp_port()

    assert await EngineProcess("fake", process, Endpoint(socket=processes.socket_path("x"))).owns_endpoint()
    assert await EngineProcess("fake", process, Endpoint(port=port)).owns_endpoint() is False
    process.ports.add(port)
    assert await EngineProcess("fake", process, Endpoint(port=port)).owns_endpoint()
    assert await EngineProcess("fake", process, Endpoint(port=port)).cpu_seconds() == 0.0


async def test_an_engine_that_is_one_process_ends_with_it() -> None:
    processes = FakeProcessSupervisor(scripts={"engine": ProcessScript(output="out of memory")})
    process = await processes.start(ProcessSpec(name="engine", argv=("engine", "-v")))
    endpoint = Endpoint(socket=processes.socket_path("engine"))
    engine = EngineProcess("fake", process, endpoint, ("engine", "-v"))
    assert (endpoint, ("engine", "-v")) == (engine.endpoint, engine.argv)

    await engine.stop(2.0)
    assert process.graces == [2.0]
    assert (await engine.wait()).message == "fake was killed by signal 15\n\nVerbose output:\nout of memory"
