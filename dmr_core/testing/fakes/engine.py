"""An engine without a process: it listens on an in-memory transport and repeats what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from dmr_core.domain.acceleration import Placement
from dmr_core.domain.artifact import Format
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig, EngineMode
from dmr_core.domain.memory import Footprint
from dmr_core.errors import BackendNotInstalledError, DmrError, EngineExitedError, UpstreamError
from dmr_core.ports.backend import BackendSpec
from dmr_core.ports.engine import Engine, InstallProgress, LaunchRequest, RunningEngine
from dmr_core.ports.transport import Endpoint, UpstreamRequest
from dmr_core.testing.fakes.transport import Answer, InMemoryTransport

__all__ = ["FakeEngine", "FakeRunningEngine", "fake_backend"]


class FakeRunningEngine(RunningEngine):
    """One started fake. :meth:`crash` ends it as if it had been killed."""

    def __init__(self, engine: FakeEngine, request: LaunchRequest, endpoint: Endpoint) -> None:
        self.request = request
        self.stopped = False
        self.cpu: float | None = 0.0
        self.owns: bool | None = True
        self.footprint: Footprint | None = None
        self.asked_where = 0
        self._engine = engine
        self._endpoint = endpoint
        self._ended: asyncio.Future[EngineExitedError] = asyncio.get_running_loop().create_future()

    @property
    def endpoint(self) -> Endpoint:
        """See :class:`RunningEngine`."""
        return self._endpoint

    @property
    def argv(self) -> tuple[str, ...]:
        """See :class:`RunningEngine`."""
        return ("fake-engine", self.request.alias)

    def crash(self, returncode: int = -9) -> None:
        """End without being asked to."""
        self._engine.transport.silence(self._endpoint)
        if not self._ended.done():
            self._ended.set_result(EngineExitedError(self._engine.name, returncode, "crashed"))

    def placement(self) -> Placement | None:
        """See :class:`RunningEngine`. What :attr:`FakeEngine.places` gives for this many questions before."""
        self.asked_where += 1
        return self._engine.places(self.asked_where - 1)

    async def memory(self) -> Footprint | None:
        """See :class:`RunningEngine`. What a test set ``footprint`` to."""
        return self.footprint

    async def cpu_seconds(self) -> float | None:
        """See :class:`RunningEngine`. What a test set ``cpu`` to."""
        return self.cpu

    async def owns_endpoint(self) -> bool | None:
        """See :class:`RunningEngine`. What a test set ``owns`` to."""
        return self.owns

    async def wait(self) -> EngineExitedError:
        """See :class:`RunningEngine`."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        """See :class:`RunningEngine`."""
        self.stopped = True
        self.crash(0)


@attrs.define(eq=False)
class FakeEngine(Engine):
    """Repeats the last message of a chat, in whole or as a stream.

    Features: ``started`` lists every launch; ``fail_with`` makes the next starts raise; ``ready`` can be
    cleared to hold a load, and set to let it finish; ``refuse`` names a setting that is refused. ``installed`` says
    whether the engine is there. ``installs`` and ``removals`` list what was asked for; ``may_install`` can be cleared
    to hold an installation, ``install_fails`` and ``uninstall_fails`` make them raise, ``says`` is the progress told.
    ``places`` says where it put a model. ``reply`` answers requests in the engine's place, where it does not give ``None``. ``parallel`` is the most installations and removals that ever ran at once.
    """

    transport: InMemoryTransport
    name: str = "fake"
    health_path: str = "/health"
    started: list[FakeRunningEngine] = attrs.field(factory=list)
    fail_with: DmrError | None = None
    refuse: DmrError | None = None
    ready: asyncio.Event = attrs.field(factory=asyncio.Event)
    installed: bool = True
    installs: list[str | None] = attrs.field(factory=list)
    removals: int = 0
    may_install: asyncio.Event = attrs.field(factory=asyncio.Event)
    install_fails: BaseException | None = None
    uninstall_fails: BaseException | None = None
    says: tuple[tuple[str, float | None], ...] = (("downloading fake 1.0", 0.5),)
    parallel: int = 0
    reply: Callable[[UpstreamRequest], Answer | None] | None = None
    places: Callable[[int], Placement | None] = lambda _asked: None
    _working: int = 0

    def __attrs_post_init__(self) -> None:
        self.ready.set()
        self.may_install.set()

    async def status(self) -> BackendStatus:
        """See :class:`Engine`."""
        if not self.installed:
            return BackendStatus(BackendState.NOT_INSTALLED, "package not installed")
        return BackendStatus(BackendState.RUNNING, f"{self.name} 1.0")

    def check(self, config: EngineConfig) -> None:
        """See :class:`Engine`."""
        if self.refuse is not None:
            raise self.refuse

    async def install(self, version: str | None, progress: InstallProgress) -> None:
        """See :class:`Engine`."""
        self.installs.append(version)
        with self._at_work():
            for what, share in self.says:
                progress(what, share)
                await asyncio.sleep(0)
            await self.may_install.wait()
            if self.install_fails is not None:
                raise self.install_fails
            self.installed = True

    async def uninstall(self) -> None:
        """See :class:`Engine`."""
        self.removals += 1
        with self._at_work():
            await asyncio.sleep(0)
            if self.uninstall_fails is not None:
                raise self.uninstall_fails
            self.installed = False

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self._working += 1
        self.parallel = max(self.parallel, self._working)
        try:
            yield
        finally:
            self._working -= 1

    async def start(self, request: LaunchRequest) -> RunningEngine:
        """See :class:`Engine`."""
        if not self.installed:
            raise BackendNotInstalledError(self.name, "package not installed")
        if self.fail_with is not None:
            raise self.fail_with
        endpoint = Endpoint(socket=Path(f"/in-memory/{self.name}-{len(self.started)}.sock"))
        running = FakeRunningEngine(self, request, endpoint)
        self.started.append(running)
        self.transport.serve(endpoint, lambda asked: self._answer(running, asked))
        return running

    async def _answer(self, running: FakeRunningEngine, request: UpstreamRequest) -> Answer:
        if request.path == self.health_path:
            return Answer(200 if self.ready.is_set() else 503, body=b"{}")
        if self.reply is not None and (answer := self.reply(request)) is not None:
            return answer
        asked = json.loads(request.body)
        text = str(asked["messages"][-1]["content"]) if asked.get("messages") else ""
        model = running.request.alias
        if asked.get("stream"):
            return Answer(200, ((b"content-type", b"text/event-stream"),), _events(model, text, running))
        content = json.dumps(_completion(model, text)).encode()
        headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)))
        return Answer(200, headers, content)


def fake_backend(
    engine: FakeEngine, formats: frozenset[Format] = frozenset({Format.GGUF}), **fields: Any
) -> BackendSpec:
    """A backend spec whose factory gives ``engine``; ``fields`` are others of the spec."""
    modes = frozenset({EngineMode.COMPLETION, EngineMode.EMBEDDING})
    fields = {"modes": modes, "reads_data_alone": True, **fields}
    return BackendSpec(name=engine.name, summary="A fake", factory=lambda _context: engine, formats=formats, **fields)


def _completion(model: str, text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "fake", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}


async def _events(model: str, text: str, running: FakeRunningEngine) -> AsyncGenerator[bytes, None]:
    for word in text.split():
        if running.stopped or running._ended.done():  # noqa: SLF001 - one fake, two classes
            raise UpstreamError("the engine broke off")
        delta = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
        chunk = {"id": "fake", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [delta]}
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
        await asyncio.sleep(0)
    yield b"data: [DONE]\n\n"
