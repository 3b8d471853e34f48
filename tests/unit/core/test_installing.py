"""Engines that come and go, on an engine that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dmr_core.domain.artifact import Format, LayerType, ModelConfig
from dmr_core.domain.engine import BackendState, BackendStatus, EngineMode
from dmr_core.domain.model import Model
from dmr_core.domain.progress import ProgressKind
from dmr_core.errors import (
    BackendInstallError,
    BackendNotFoundError,
    BackendNotInstalledError,
    ConflictError,
    RunnerActiveError,
    ShuttingDownError,
)
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine, InstallProgress
from dmr_core.services.backends import Backend, BackendService
from dmr_core.services.installing import installer as module
from dmr_core.services.installing.events import Phase
from dmr_core.testing.contracts.model_store import build_artifact, layer_of
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.engine import FakeEngine
from dmr_core.testing.fakes.transport import InMemoryTransport


class Bench:
    """A service of two backends, ``one`` and ``two``, neither installed; ``one`` is installed on demand."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.one, self.two = (FakeEngine(InMemoryTransport(), name) for name in ("one", "two"))
        self.one.installed = self.two.installed = False
        self.changes = 0
        self.released: list[str] = []
        self.busy = False
        self.service = BackendService(
            {"one": self.backend(self.one, installs=True), "two": self.backend(self.two)}, clock=self.clock
        )
        self.service.protect(self.release)
        self.service.watch(self.changed)

    @staticmethod
    def backend(engine: Engine, *, installs: bool = False, platforms: frozenset[str] = frozenset()) -> Backend:
        name = engine.name if isinstance(engine, FakeEngine) else "bare"
        spec = BackendSpec(
            name=name,
            summary=name,
            factory=lambda _context: engine,
            formats=frozenset({Format.GGUF}),
            installs=installs,
            platforms=platforms,
        )
        return Backend(spec, engine)

    def changed(self) -> None:
        self.changes += 1

    async def release(self, name: str) -> None:
        if self.busy:
            raise RunnerActiveError("'m' is answering")
        self.released.append(name)

    async def status(self, name: str = "one") -> str:
        return str((await self.service.statuses())[name])

    async def phase(self, name: str = "one") -> Phase:
        return next(view.state.phase for view in await self.service.views() if view.backend.name == name)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.service.refresh()
    yield made
    await made.service.aclose()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


# --- installing -------------------------------------------------------------------------------------


async def test_many_who_want_it_share_one_installation(bench: Bench) -> None:
    await asyncio.gather(*(bench.service.install("one") for _ in range(8)))

    assert ([None], 1) == (bench.one.installs, bench.one.parallel)
    assert await bench.status() == "Running: one 1.0"
    await bench.service.install("one")
    assert [None] == bench.one.installs, "it is there already"


async def test_a_version_is_passed_on_even_where_another_is_installed(bench: Bench) -> None:
    await bench.service.install("one")
    await bench.service.install("one", "2")

    assert [None, "2"] == bench.one.installs


async def test_two_versions_at_once_are_a_conflict(bench: Bench) -> None:
    bench.one.may_install.clear()
    first = asyncio.ensure_future(bench.service.install("one", "1"))
    await settle()
    with pytest.raises(ConflictError, match="one is being installed in version 1; ask for version 2 once that is done"):
        await bench.service.install("one", "2")
    bench.one.may_install.set()
    await first


async def test_who_leaves_does_not_end_it_for_the_others_nor_for_the_service(bench: Bench) -> None:
    bench.one.may_install.clear()
    callers = [asyncio.ensure_future(bench.service.install("one")) for _ in range(2)]
    await settle()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert await bench.phase() is Phase.INSTALLING

    bench.one.may_install.set()
    await settle()
    assert await bench.phase() is Phase.INSTALLED


async def test_one_backend_does_not_wait_for_another(bench: Bench) -> None:
    bench.one.may_install.clear()
    slow = asyncio.ensure_future(bench.service.install("one"))
    await settle()
    await bench.service.install("two")

    assert (Phase.INSTALLING, Phase.INSTALLED) == (await bench.phase("one"), await bench.phase("two"))
    bench.one.may_install.set()
    await slow


async def test_what_it_does_is_told_in_the_status_and_to_whoever_follows(bench: Bench) -> None:
    bench.one.may_install.clear()
    bench.one.says = (("downloading one 1.0", 0.25),)
    lines = bench.service.install_lines("one")
    first = await anext(lines)
    while first.share is None:
        first = await anext(lines)
    assert ("downloading one 1.0", 0.25) == (first.message, first.share)
    assert await bench.status() == "Installing: downloading one 1.0 (25%)"

    bench.one.may_install.set()
    last = [line async for line in lines][-1]
    assert (ProgressKind.SUCCESS, "one backend installed successfully") == (last.kind, last.message)


async def test_a_follower_who_leaves_leaves_the_work(bench: Bench) -> None:
    bench.one.may_install.clear()
    lines = bench.service.install_lines("one")
    await anext(lines)
    await lines.aclose()
    bench.one.may_install.set()
    await settle()

    assert await bench.phase() is Phase.INSTALLED


async def test_progress_may_come_from_a_thread(bench: Bench) -> None:
    class Threaded(FakeEngine):
        async def install(self, version: str | None, progress: InstallProgress) -> None:
            await asyncio.to_thread(progress, "unpacking", 0.75)
            await self.may_install.wait()
            self.installed = True

    engine = Threaded(InMemoryTransport(), "threaded", installed=False)
    engine.may_install.clear()
    service = BackendService({"threaded": bench.backend(engine)}, clock=bench.clock)
    lines = service.install_lines("threaded")
    seen = [await anext(lines)]
    while seen[-1].share is None:
        seen.append(await anext(lines))
    engine.may_install.set()
    assert ("unpacking", 0.75) == (seen[-1].message, seen[-1].share)
    assert [line async for line in lines][-1].kind is ProgressKind.SUCCESS
    await service.aclose()


# --- failing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BackendInstallError("no network"), "no network"),
        (RuntimeError("boom"), "one failed: RuntimeError: boom"),
        (SystemExit(3), "one failed: SystemExit: 3"),
        (asyncio.CancelledError(), "work on one was cancelled"),
    ],
)
async def test_whatever_an_installation_raises_is_its_callers_answer(
    bench: Bench, error: BaseException, said: str
) -> None:
    bench.one.install_fails = error
    with pytest.raises(BackendInstallError, match=said):
        await bench.service.install("one")

    assert f"Error: {said}" == await bench.status()
    bench.one.install_fails = None
    await bench.service.install("one")
    assert await bench.status() == "Running: one 1.0"


async def test_a_request_does_not_repeat_a_failure_at_once_but_later_and_a_person_always(bench: Bench) -> None:
    bench.one.install_fails = BackendInstallError("no network")
    for seconds in (5, 10, 20):
        with pytest.raises(BackendInstallError, match=r"^backend installation failed: no network$"):
            await bench.service.ready("one")
        tries = len(bench.one.installs)
        with pytest.raises(
            BackendInstallError, match=r"not tried again for .* s, or at once with `dmr backend ins"
        ) as e:
            await bench.service.ready("one")
        assert (tries, seconds) == (len(bench.one.installs), e.value.retry_after)
        await bench.clock.advance(seconds)
    with pytest.raises(BackendInstallError, match="no network"):
        await bench.service.install("one")
    with pytest.raises(BackendInstallError, match="no network"):
        await bench.service.install("one")
    bench.one.install_fails = None
    await bench.clock.advance(300)
    await bench.service.ready("one")
    assert await bench.phase() is Phase.INSTALLED


async def test_an_installation_that_brings_nothing_has_failed(bench: Bench) -> None:
    class Liar(FakeEngine):
        async def install(self, version: str | None, progress: InstallProgress) -> None:
            """Say it is done."""

    service = BackendService({"liar": bench.backend(Liar(InMemoryTransport(), "liar", installed=False))})
    with pytest.raises(BackendInstallError, match="liar was installed, but cannot be used: Not Installed: package not"):
        await service.install("liar")
    await service.aclose()


async def test_an_installation_that_takes_too_long_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSTALL_LIMIT", 0.01)
    bench.one.may_install.clear()
    with pytest.raises(BackendInstallError, match=r"the installation of one took longer than 0.01 s and was cancelled"):
        await bench.service.install("one")


async def test_an_installation_that_cannot_be_cancelled_blocks_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INSTALL_LIMIT", 0.01)
    monkeypatch.setattr(module, "CANCEL_GRACE", 0.01)

    class Stubborn(FakeEngine):
        async def install(self, version: str | None, progress: InstallProgress) -> None:
            self.installs.append(version)
            while not self.may_install.is_set():
                try:
                    await self.may_install.wait()
                except asyncio.CancelledError:
                    continue

    engine = Stubborn(InMemoryTransport(), "stubborn", installed=False)
    engine.may_install.clear()
    service = BackendService({"stubborn": bench.backend(engine)}, clock=bench.clock)
    for said in ("took longer than", "earlier work on stubborn was cancelled and has not ended"):
        with pytest.raises(BackendInstallError, match=said):
            await service.install("stubborn")
    assert [None] == engine.installs, "two at once"
    await service.aclose()
    engine.may_install.set()
    await settle()


# --- on demand --------------------------------------------------------------------------------------


def model() -> Model:
    artifact = build_artifact([layer_of(b"weights", LayerType.GGUF)], ModelConfig(format="gguf"))
    return Model(id=artifact.id, tags=("docker.io/ai/m:latest",), manifest=artifact.manifest, config=artifact.config)


async def test_what_is_needed_is_installed_if_it_says_so_and_not_otherwise(bench: Bench) -> None:
    choice = bench.service.choose(model(), EngineMode.COMPLETION, None)
    assert ("one", "on-demand") == (choice.name, choice.reason)

    await asyncio.gather(*(bench.service.ready("one") for _ in range(4)))
    assert [None] == bench.one.installs
    with pytest.raises(BackendNotInstalledError, match="'two' is not installed: `dmr backend install two` installs it"):
        await bench.service.ready("two")


async def test_an_installation_under_way_is_worth_waiting_for_whoever_began_it(bench: Bench) -> None:
    bench.two.may_install.clear()
    begun = asyncio.ensure_future(bench.service.install("two"))
    await settle()
    waiting = asyncio.ensure_future(bench.service.ready("two"))
    await settle()
    assert not waiting.done()
    assert bench.service.choose(model(), EngineMode.COMPLETION, "two").reason == "requested"
    bench.two.may_install.set()
    await asyncio.gather(begun, waiting)


async def test_what_works_goes_on_working_while_another_version_comes(bench: Bench) -> None:
    await bench.service.install("one")
    bench.one.may_install.clear()
    upgrade = asyncio.ensure_future(bench.service.install("one", "2"))
    await settle()

    await bench.service.ready("one")
    assert ("one", "only-installed") == (
        (choice := bench.service.choose(model(), EngineMode.COMPLETION, None)).name,
        choice.reason,
    )
    bench.one.install_fails = BackendInstallError("no such version")
    bench.one.may_install.set()
    with pytest.raises(BackendInstallError, match="no such version"):
        await upgrade
    assert await bench.status() == "Running: one 1.0"


async def test_choices_made_before_are_known_to_be_stale(bench: Bench) -> None:
    before = bench.changes
    await bench.service.install("two")
    assert bench.changes > before
    before = bench.changes
    await bench.service.uninstall("two")
    assert bench.changes > before
    before = bench.changes
    await bench.service.refresh()
    assert bench.changes == before, "nothing changed"


# --- removing ---------------------------------------------------------------------------------------


async def test_what_uses_it_is_unloaded_first(bench: Bench) -> None:
    await bench.service.install("one")
    await bench.service.uninstall("one")

    assert (["one"], 1) == (bench.released, bench.one.removals)
    assert await bench.status() == "Not Installed: package not installed"


async def test_nothing_is_removed_while_a_runner_is_busy(bench: Bench) -> None:
    await bench.service.install("one")
    bench.busy = True
    with pytest.raises(RunnerActiveError, match="'m' is answering"):
        await bench.service.uninstall("one")

    assert bench.one.removals == 0
    assert await bench.phase() is Phase.INSTALLED
    await bench.service.ready("one")


async def test_what_was_not_installed_by_us_survives_an_attempt_to_remove_it(bench: Bench) -> None:
    """The reference forgets that such a backend is installed, and every later request waits for ever."""

    class Bare(Engine):
        health_path = "/health"

        async def status(self) -> BackendStatus:
            return BackendStatus(BackendState.RUNNING, "bare 1.0")

        check = start = None  # type: ignore[assignment]

    service = BackendService({"bare": bench.backend(Bare())}, clock=bench.clock)
    service.protect(bench.release)
    await service.refresh()
    with pytest.raises(BackendInstallError, match="did not install its engine, so it does not remove it either"):
        await service.uninstall("bare")

    assert [] == bench.released, "runners were stopped for nothing"
    await asyncio.wait_for(service.ready("bare"), 1)
    assert "Running: bare 1.0" == str((await service.statuses())["bare"])
    with pytest.raises(BackendInstallError, match="cannot install its engine by itself"):
        await service.install("bare", "2")
    assert "Running: bare 1.0" == str((await service.statuses())["bare"])
    await service.aclose()


async def test_removing_what_is_being_installed_ends_the_installation(bench: Bench) -> None:
    bench.one.may_install.clear()
    installing = asyncio.ensure_future(bench.service.install("one"))
    await settle()
    await bench.service.uninstall("one")

    with pytest.raises(ConflictError, match="was cancelled: somebody asked for its removal"):
        await installing
    assert await bench.phase() is Phase.NOT_INSTALLED


# --- the rest ---------------------------------------------------------------------------------------


async def test_shutting_down_answers_everybody_and_stops_the_work(bench: Bench) -> None:
    bench.one.may_install.clear()
    waiting = [asyncio.ensure_future(bench.service.install("one")) for _ in range(3)]
    await settle()
    await bench.service.aclose()

    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, ShuttingDownError)
    with pytest.raises(ShuttingDownError):
        await bench.service.install("one")
    assert not bench.one.installed


async def test_statuses_are_remembered_for_a_moment_and_looked_at_again(bench: Bench) -> None:
    looks = 0

    class Counting(FakeEngine):
        async def status(self) -> BackendStatus:
            nonlocal looks
            looks += 1
            return await super().status()

    service = BackendService({"one": bench.backend(Counting(InMemoryTransport(), "one"))}, clock=bench.clock)
    for expected in (1, 1, 2):
        await service.statuses()
        assert expected == looks
        await bench.clock.advance(0.6)
    await service.aclose()


async def test_one_that_does_not_say_how_it_is_delays_nobody_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr_core.services.backends._PATIENCE", 0.01)

    class Silent(FakeEngine):
        async def status(self) -> BackendStatus:
            if self.refuse is None:
                return await super().status()
            await asyncio.Event().wait()
            raise AssertionError

    engine = Silent(InMemoryTransport(), "silent")
    service = BackendService({"silent": bench.backend(engine)}, clock=bench.clock)
    await service.refresh()
    engine.refuse = BackendInstallError("silence")
    await bench.clock.advance(2)
    statuses = await asyncio.wait_for(service.statuses(), 1)
    assert "Running: silent 1.0" == str(statuses["silent"])
    monkeypatch.setattr(module, "STATUS_TIMEOUT", 0.01)
    await service.aclose()
    service = BackendService({"silent": bench.backend(engine)}, clock=bench.clock)
    engine.refuse = None
    await service.refresh()
    engine.refuse = BackendInstallError("silence")
    await service.refresh()
    assert "Error: no answer within 0.01 s" == str((await service.statuses())["silent"])
    await service.ready("silent")  # silence does not mean that it is gone
    await service.aclose()


async def test_a_backend_for_another_platform_is_told_to_be_one(bench: Bench) -> None:
    bare = bench.backend(bench.one, installs=True, platforms=frozenset({"darwin/arm64"}))
    service = BackendService({"one": bare}, clock=bench.clock, platform="linux/x86_64")
    await service.refresh()

    assert "Not Installed: only supported on Apple Silicon" == str((await service.statuses())["one"])
    with pytest.raises(BackendInstallError, match="one is only supported on Apple Silicon"):
        await service.install("one")
    (view,) = await service.views()
    assert (False, "") == (view.here, view.next_step)
    await service.aclose()


async def test_a_backend_nobody_registered_cannot_be_installed_or_removed(bench: Bench) -> None:
    for work in (bench.service.install("x"), bench.service.uninstall("x"), bench.service.ready("x")):
        with pytest.raises(BackendNotFoundError):
            await work
    with pytest.raises(BackendNotFoundError):
        bench.service.install_lines("x")


async def test_a_view_says_what_to_do_next(bench: Bench) -> None:
    bench.one.install_fails = BackendInstallError("no network")
    with pytest.raises(BackendInstallError):
        await bench.service.ready("one")
    await bench.clock.advance(1)
    one, two = await bench.service.views()

    assert (Phase.FAILED, 4.0, "`dmr backend install one` installs it") == (
        one.state.phase,
        one.retry_in,
        one.next_step,
    )
    assert (Phase.NOT_INSTALLED, 0.0) == (two.state.phase, two.retry_in)
