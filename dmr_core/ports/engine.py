"""Engines: whatever turns a model into an HTTP service."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import attrs

from dmr_core.domain.engine import BackendStatus, EngineConfig, EngineMode
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import EngineExitedError
from dmr_core.ports.process import SupervisedProcess
from dmr_core.ports.transport import Endpoint

__all__ = ["Engine", "EngineProcess", "LaunchRequest", "RunningEngine"]


@attrs.frozen(kw_only=True)
class LaunchRequest:
    """One model to be served. ``alias`` is the name clients know; answers must carry it as ``model``."""

    model: Model
    bundle: Bundle
    alias: str
    mode: EngineMode = EngineMode.COMPLETION
    config: EngineConfig = attrs.field(factory=EngineConfig)
    draft: Bundle | None = None


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

    @abstractmethod
    async def wait(self) -> EngineExitedError:
        """Return, with the reason, once the engine has ended. May be awaited by many."""

    @abstractmethod
    async def stop(self, grace: float) -> None:
        """End it within ``grace`` seconds, by force if need be. Idempotent."""


class Engine(Protocol):
    """One backend's engine, able to serve many models in as many processes.

    ``health_path`` answers 200 when a started engine can serve.
    """

    health_path: str

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


@attrs.frozen
class EngineProcess(RunningEngine):
    """A running engine that is one supervised process; what most engines return from ``start``."""

    backend: str
    process: SupervisedProcess
    listens: Endpoint
    command: tuple[str, ...] = ()

    @property
    def endpoint(self) -> Endpoint:
        """See :class:`RunningEngine`."""
        return self.listens

    @property
    def argv(self) -> tuple[str, ...]:
        """See :class:`RunningEngine`."""
        return self.command

    async def wait(self) -> EngineExitedError:
        """See :class:`RunningEngine`."""
        return EngineExitedError(self.backend, await self.process.wait(), self.process.tail())

    async def stop(self, grace: float) -> None:
        """See :class:`RunningEngine`."""
        await self.process.stop(grace)
