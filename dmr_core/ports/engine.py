"""Engines: whatever turns a model into an HTTP service."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import attrs

from dmr_core.domain.acceleration import Placement
from dmr_core.domain.diagnosis import out_of_memory
from dmr_core.domain.engine import BackendStatus, EngineConfig, EngineMode
from dmr_core.domain.memory import Footprint, Memory
from dmr_core.domain.model import Bundle, Model
from dmr_core.domain.provenance import Claim
from dmr_core.domain.secret import Secret
from dmr_core.errors import BackendInstallError, EngineExitedError, UnsupportedFormatError
from dmr_core.ports.process import SupervisedProcess
from dmr_core.ports.transport import Endpoint

__all__ = ["Argument", "Engine", "EngineProcess", "InstallProgress", "LaunchRequest", "MemoryRequest", "RunningEngine"]

InstallProgress = Callable[[str, float | None], None]
"""Told what an installation does, and which share of it is done (0 to 1), if that is known."""


@attrs.frozen(kw_only=True)
class LaunchRequest:
    """One model to be served. ``alias`` is the name clients know; answers must carry it as ``model``.

    ``packaged`` names those settings of ``config`` that nobody configured: the model came with them. ``runs_code`` is set
    for a model that brings code along which the operator lets engines run. ``key`` is what whoever asked gave along for the
    engine. Only models in the store have a ``bundle``.
    """

    model: Model
    _bundle: Bundle | None = attrs.field(default=None, alias="bundle")
    alias: str
    mode: EngineMode = EngineMode.COMPLETION
    config: EngineConfig = attrs.field(factory=EngineConfig)
    draft: Bundle | None = None
    packaged: frozenset[str] = frozenset()
    runs_code: bool = False
    key: Secret | None = None

    @property
    def bundle(self) -> Bundle:
        """The model's files.

        Raises:
            UnsupportedFormatError: the model is not in the store, so there are none.
        """
        if self._bundle is None:
            raise UnsupportedFormatError(
                f"{self.model.name!r} is kept by {self.model.backend!r}, which alone can serve it"
            )
        return self._bundle


@attrs.frozen(kw_only=True)
class Argument:
    """Words of an argument vector that belong together, and why they are there.

    ``setting`` is the typed setting they carry out (its name in JSON, such as ``context-size``), else the flag; it is
    empty for what is no matter of choice. ``changes`` are words that are others at every start, such as a socket.
    """

    words: tuple[str, ...]
    claim: Claim
    setting: str = ""
    overrode: tuple[Claim, ...] = ()
    changes: bool = False


@attrs.frozen(kw_only=True)
class MemoryRequest:
    """A load whose memory is to be estimated, before any file of it is unpacked."""

    model: Model
    mode: EngineMode = EngineMode.COMPLETION
    config: EngineConfig = attrs.field(factory=EngineConfig)
    draft: Model | None = None


class RunningEngine(Protocol):
    """A started engine, not necessarily ready yet."""

    @property
    @abstractmethod
    def endpoint(self) -> Endpoint:
        """Where it listens, or will."""

    @property
    @abstractmethod
    def argv(self) -> tuple[str, ...]:
        """What was started, for people; empty when it is no process of ours."""

    @property
    def pid(self) -> int | None:
        """Its process, ``None`` when it is no process of ours."""
        return None

    @property
    def served(self) -> str:
        """What it calls the model, where it goes by no other name; known from :meth:`introduce` on.

        Empty where it takes the model by any name and answers with the alias it was started under.
        """
        return ""

    async def introduce(self) -> None:
        """Called once, when it has answered its health probe: before the first request, what is to be learnt of it.

        Raises:
            DmrError: it is not what it should be; it is stopped then.
        """
        return

    def tail(self) -> str:
        """The end of its output so far, redacted."""
        return ""

    def placement(self) -> Placement | None:
        """Where it put the model, once it is ready; ``None`` where that cannot be told, or not yet."""
        return None

    @property
    def warning(self) -> str:
        """What people should know of how it runs; empty if all is well."""
        return ""

    async def memory(self) -> Footprint | None:
        """What it uses now; ``None`` where that cannot be told."""
        return None

    async def cpu_seconds(self) -> float | None:
        """CPU time it has used so far: what tells a busy engine from a dead one. ``None`` where that cannot be told."""
        return None

    async def owns_endpoint(self) -> bool | None:
        """Whether whoever listens at :attr:`endpoint` is this engine; ``None`` where that cannot be told."""
        return None

    @abstractmethod
    async def wait(self) -> EngineExitedError:
        """Return, with the reason, once the engine has ended. May be awaited by many."""

    @abstractmethod
    async def stop(self, grace: float) -> None:
        """End it within ``grace`` seconds, by force if need be. Idempotent."""


class Engine(Protocol):
    """One backend's engine, able to serve many models in as many processes.

    ``health_path`` answers 200 when a started engine can serve; ``metrics_path`` gives its figures in Prometheus'
    text format, ``None`` for an engine that has none. ``start_timeout`` is how many seconds a start may take, ``None``
    for as many as the service allows any engine.
    """

    health_path: str
    metrics_path: str | None = None
    start_timeout: float | None = None

    @abstractmethod
    async def status(self) -> BackendStatus:
        """Whether the engine can be used here. Quick; may look at the disk, never at the network."""

    @abstractmethod
    def check(self, config: EngineConfig) -> None:
        """Refuse settings this engine cannot honour.

        Raises:
            InvalidConfigurationError: names the setting or flag.
        """

    @abstractmethod
    async def start(self, request: LaunchRequest) -> RunningEngine:
        """Start serving a model; returns as soon as the process exists. Cancelling leaves none behind.

        Raises:
            BackendNotInstalledError: says what to install.
            UnsupportedFormatError: the model has no weights this engine reads, or the mode is not one of its own.
        """

    def estimate(self, request: MemoryRequest) -> Memory | None:
        """What a runner will need, from what is known before it starts; ``None`` leaves it to the size of the files."""
        return None

    def arguments(self, request: LaunchRequest) -> tuple[Argument, ...]:
        """All that :meth:`start` would start, the program first, and why; empty for an engine that cannot tell.

        Starts nothing. Raises as :meth:`start` does for the model and its settings, not for a missing program.
        """
        return ()

    def leave(self) -> None:
        """The service ends, and will stop every engine next. One that can go on without it may be left running."""
        return

    async def left_running(self) -> tuple[str, ...]:
        """Names of models that engines of an earlier service still serve. They are taken back by starting them."""
        return ()

    def explain(self, failure: EngineExitedError) -> EngineExitedError:
        """The same failure with its cause, if the engine's output tells; a subclass of it says what to do next."""
        return failure

    async def install(self, version: str | None, progress: InstallProgress) -> None:
        """Bring the engine here. Idempotent; cancelling leaves what was there before.

        Raises:
            BackendInstallError: why not, and what to do instead.
        """
        raise BackendInstallError("this backend cannot install its engine by itself; `dmr status` says what it needs")

    async def uninstall(self) -> None:
        """Remove what :meth:`install` brought, and nothing else. Idempotent.

        Raises:
            BackendInstallError: there is nothing that could be removed.
        """
        raise BackendInstallError("this backend did not install its engine, so it does not remove it either")


@attrs.frozen
class EngineProcess(RunningEngine):
    """A running engine that is one supervised process; what most engines return from ``start``.

    ``reads_placement`` finds in its output where it put the model.
    """

    backend: str
    process: SupervisedProcess
    listens: Endpoint
    command: tuple[str, ...] = ()
    reads_placement: Callable[[str], Placement | None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """See :class:`RunningEngine`."""
        return self.listens

    @property
    def argv(self) -> tuple[str, ...]:
        """See :class:`RunningEngine`."""
        return self.command

    @property
    def pid(self) -> int | None:
        """See :class:`RunningEngine`."""
        return self.process.pid

    def tail(self) -> str:
        """See :class:`RunningEngine`."""
        return self.process.tail()

    def placement(self) -> Placement | None:
        """See :class:`RunningEngine`."""
        return self.reads_placement(self.process.tail()) if self.reads_placement is not None else None

    async def memory(self) -> Footprint | None:
        """See :class:`RunningEngine`."""
        return await self.process.memory()

    async def cpu_seconds(self) -> float | None:
        """See :class:`RunningEngine`."""
        return await self.process.cpu_seconds()

    async def owns_endpoint(self) -> bool | None:
        """See :class:`RunningEngine`. A unix socket lies where only engines of ours can make one."""
        return True if self.listens.socket is not None else await self.process.listens_on(self.listens.port)

    async def wait(self) -> EngineExitedError:
        """See :class:`RunningEngine`."""
        returncode = await self.process.wait()
        if self.process.out_of_memory:
            return out_of_memory(self.backend, returncode, self.process.tail())
        return EngineExitedError(self.backend, returncode, self.process.tail())

    async def stop(self, grace: float) -> None:
        """See :class:`RunningEngine`."""
        await self.process.stop(grace)
