"""Child processes that cannot outlive us."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import attrs

from dmr_core.domain.memory import Footprint
from dmr_core.errors import UpstreamError

__all__ = ["ProcessSpec", "ProcessSupervisor", "SupervisedProcess"]


@attrs.frozen(kw_only=True)
class ProcessSpec:
    """A process to start. ``name`` appears in logs; ``environment`` is added to the allow-listed one."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)


class SupervisedProcess(Protocol):
    """A process in its own session, with its output drained and its end known."""

    pid: int

    @property
    @abstractmethod
    def returncode(self) -> int | None:
        """Exit status, negative for a signal, ``None`` while it runs."""

    @abstractmethod
    async def wait(self) -> int:
        """Exit status, once it has one. May be awaited by many, and cancelled."""

    @abstractmethod
    def tail(self) -> str:
        """The end of its output, redacted."""

    async def memory(self) -> Footprint | None:
        """What it and everything it started use now; ``None`` where that cannot be told, or once it ended."""
        return None

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed it for want of memory, as far as can be told; known once it ended."""
        return False

    async def cpu_seconds(self) -> float | None:
        """CPU time that it and everything it started have used so far; ``None`` where that cannot be told."""
        return None

    async def listens_on(self, port: int) -> bool | None:
        """Whether it, or something it started, is who listens on a TCP port here; ``None`` if that cannot be told."""
        return None

    @abstractmethod
    async def stop(self, grace: float) -> int:
        """SIGTERM to the whole group, SIGKILL after ``grace`` seconds; returns once nothing is left."""


class ProcessSupervisor(Protocol):
    """Starts processes that die with this one, however it dies."""

    @abstractmethod
    async def start(self, spec: ProcessSpec) -> SupervisedProcess:
        """Start a process.

        Raises:
            EngineUnusableError: the program does not exist or cannot be executed.
            UpstreamError: the system is out of processes or descriptors.
        """

    @abstractmethod
    def socket_path(self, name: str) -> Path:
        """A fresh path for a unix socket in a directory only this user can enter."""

    def tcp_port(self) -> int:
        """A loopback port nobody uses now, for an engine that cannot listen on a unix socket.

        Somebody else may take it before the engine does: whoever answers there must be asked for with
        :meth:`SupervisedProcess.listens_on` before it is believed.
        """
        raise UpstreamError("this supervisor has no TCP ports to give")
