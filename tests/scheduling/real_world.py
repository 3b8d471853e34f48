"""The same schedules with real child processes: the real scheduler, supervisor, launcher, transport and sockets.

A second of a schedule lasts two hundredths of one here. What a world leaves behind is looked for in /proc.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dmr_adapters.clock import SystemClock
from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_adapters.transport.stream_transport import StreamTransport
from dmr_core.domain.artifact import Format, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig, EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Memory
from dmr_core.errors import DmrError, EngineExitedError, EngineOutOfMemoryError
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine, EngineProcess, LaunchRequest, RunningEngine
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint
from dmr_core.services.backends import Backend, BackendService
from dmr_core.services.launching import LaunchingService
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Launch, Limits
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from tests.scheduling.behaviours import BEHAVIOURS, behaviour_of
from tests.scheduling.machine import MODELS
from tests.stand_ins.standin_install import install_standin

__all__ = ["RealWorld", "install_engines"]

SCALE: Final = 0.02
_START_TIMEOUT: Final = 1.5
_GRACE: Final = 0.1
_DEADLINE: Final = 30.0


def install_engines(directory: Path) -> dict[str, Path]:
    """A stand-in engine for every behaviour there is; the program of each."""
    settings: dict[str, dict[str, Any]] = {
        "slow": {"load_delay": BEHAVIOURS["slow"].load * SCALE},
        "killed": {"crash_in_load": 0.01},
        "corrupt": {"exit_code": 1, "message": "the model is corrupt"},
        "memory": {"exit_code": 1, "message": "out of memory"},
        "hang": {"never_ready": True},
        "stubborn": {"ignore_sigterm": True},
    }
    return {name: install_standin(directory / name, **settings.get(name, {})) for name in BEHAVIOURS}


class _StandIns(Engine):
    """Starts the stand-in whose behaviour the alias names."""

    health_path = "/health"

    def __init__(self, supervisor: PosixProcessSupervisor, programs: dict[str, Path]) -> None:
        self._supervisor = supervisor
        self._programs = programs

    async def status(self) -> BackendStatus:
        return BackendStatus(BackendState.RUNNING)

    def check(self, config: EngineConfig) -> None:
        pass

    async def start(self, request: LaunchRequest) -> RunningEngine:
        program = self._programs[request.alias.partition(".")[2]]
        socket = self._supervisor.socket_path("standin")
        argv = (str(program), "--host", str(socket), "--alias", request.alias)
        process = await self._supervisor.start(ProcessSpec(name="standin", argv=argv))
        lives = behaviour_of(request.alias).lives
        if lives is not None:
            asyncio.get_running_loop().call_later(0.1 + lives * SCALE, _kill, process.pid)
        return EngineProcess("standin", process, Endpoint(socket=socket), argv)

    def explain(self, failure: EngineExitedError) -> EngineExitedError:
        if "out of memory" in failure.tail:
            return EngineOutOfMemoryError(failure.backend, failure.returncode, failure.tail)
        return failure


class RealWorld:
    """A scheduler with everything real behind it, driven from outside its loop."""

    def __init__(self, slots: int, programs: dict[str, Path]) -> None:
        self._descriptors = _descriptors()
        self._children = _children()  # of others in this process, such as a registry that serves many tests
        self._runner = asyncio.Runner()
        self._directory = tempfile.TemporaryDirectory(prefix="dmr-")
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._finished: dict[int, asyncio.Event] = {}
        self.outcomes: list[str] = []
        self._models: dict[str, Digest] = {}
        self._runner.run(self._open(slots, programs))

    async def _open(self, slots: int, programs: dict[str, Path]) -> None:
        self._supervisor = await PosixProcessSupervisor.open(Path(self._directory.name))
        self._transport = StreamTransport()
        store = InMemoryModelStore()
        for model in MODELS:
            await put_blob(store, model.encode())
            added = await store.add(build_artifact([layer_of(model.encode())], ModelConfig(format="gguf")))
            self._models[model] = added.id
        engine = _StandIns(self._supervisor, programs)
        spec = BackendSpec(
            name="standin", summary="Stand-ins", factory=lambda _: engine, formats=frozenset({Format.GGUF})
        )
        clock = SystemClock()
        launching = LaunchingService(
            store=store,
            backends=BackendService({"standin": Backend(spec, engine)}),
            transport=self._transport,
            clock=clock,
            start_timeout=_START_TIMEOUT,
            grace=_GRACE,
        )
        limits = Limits(slots=slots, wait=120 * SCALE, patience=10 * SCALE, residency=2 * SCALE, tenure=60 * SCALE)
        self._scheduler = Scheduler(
            launcher=launching.launch, clock=clock, metrics=InMemoryMetrics(), limits=limits, grace=_GRACE
        )
        self._scheduler.start()

    # --- what a schedule does

    def ask(
        self,
        demand: int,
        alias: str,
        *,
        keep_alive: float,
        needs: Memory,
        concurrency: int | None,
        wait: float | None,
        answer: float | None,
    ) -> None:
        async def begin() -> None:
            launch = Launch(alias=alias, keep_alive=KeepAlive(keep_alive * SCALE), needs=needs, concurrency=concurrency)
            self._finished[demand] = asyncio.Event()
            work = self._use(demand, alias, launch, wait, 1.0 if answer is None else answer)
            self._asking[demand] = asyncio.create_task(work)
            await asyncio.sleep(0)

        self._runner.run(begin())

    async def _use(self, demand: int, alias: str, launch: Launch, wait: float | None, answer: float) -> None:
        key = RunnerKey("standin", self._models[alias.partition(".")[0]], EngineMode.COMPLETION)
        try:
            lease = await self._scheduler.lease(key, launch, wait=None if wait is None else wait * SCALE)
        except DmrError as exc:
            self.outcomes.append(type(exc).__name__)
            return
        with lease, suppress(TimeoutError):
            self.outcomes.append("granted")
            async with asyncio.timeout(answer * SCALE):
                await self._finished[demand].wait()

    def leave(self, demand: int) -> None:
        async def cancel() -> None:
            self._asking[demand].cancel()
            await asyncio.sleep(0)

        self._runner.run(cancel())

    def finish(self, demand: int) -> None:
        async def finish() -> None:
            self._finished[demand].set()
            await asyncio.sleep(0)

        self._runner.run(finish())

    def crash(self, model: str) -> None:
        for view in self._scheduler.runners():
            if view.key.model_id == self._models[model] and view.pid is not None:
                _kill(view.pid)
        self.pass_time(0.0)

    def unload(self, model: str) -> None:
        async def unload() -> None:
            ids = [view.id for view in self._scheduler.runners() if view.key.model_id == self._models[model]]
            self._scheduler.unload(ids)
            await asyncio.sleep(0)

        self._runner.run(unload())

    def pass_time(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds * SCALE))

    # --- the end

    def close(self) -> None:
        """End everything, and look for what is left: leases, tasks, processes, sockets, descriptors."""
        try:
            self._runner.run(self._close())
        finally:
            self._runner.close()
            self._directory.cleanup()
        left = _descriptors() - self._descriptors
        assert not left, f"descriptors left open: {left}"

    async def _close(self) -> None:
        async with asyncio.timeout(_DEADLINE):
            await asyncio.gather(*self._asking.values(), return_exceptions=True)
            assert not self._scheduler.waiting(), "somebody is still in the queue"
            leased = [view for view in self._scheduler.runners() if view.leases]
            assert not leased, f"leases nobody holds: {leased}"
            await self._scheduler.aclose()
            await self._transport.aclose()
            sockets = list(self._supervisor.directory.rglob("*.sock"))
            assert not sockets, f"sockets left: {sockets}"
            await self._supervisor.aclose()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not tasks, f"tasks left: {tasks}"
        children = _children() - self._children
        assert not children, f"processes left: {children}"


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{name}:{os.readlink(f'/proc/self/fd/{name}')}")
    return {entry for entry in found if "/proc/" not in entry}


def _children() -> frozenset[str]:
    return frozenset(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())
