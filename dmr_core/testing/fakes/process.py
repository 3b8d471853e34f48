"""Processes that follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import attrs

from dmr_core.domain.memory import Footprint
from dmr_core.errors import EngineUnusableError
from dmr_core.ports.process import ProcessSpec, ProcessSupervisor, SupervisedProcess

__all__ = ["FakeProcess", "FakeProcessSupervisor", "ProcessScript"]

_FIRST_PID: Final = 1_000_000


@attrs.frozen(kw_only=True)
class ProcessScript:
    """How a program behaves: what it prints at once, whether and how it ends by itself (of the kernel, which ends it
    ``out_of_memory``?), whether it heeds SIGTERM, and how many bytes of memory it ``holds`` once it has printed.
    """

    output: str = ""
    holds: int = 0
    exits: int | None = None
    out_of_memory: bool = False
    ignores_sigterm: bool = False


class FakeProcess(SupervisedProcess):
    """A process that is nothing but its state. Tests end it with :meth:`finish`."""

    def __init__(self, pid: int, spec: ProcessSpec, script: ProcessScript) -> None:
        self.pid = pid
        self.spec = spec
        self.graces: list[float] = []
        self.stops_when: asyncio.Event = asyncio.Event()
        self._script = script
        self._output = script.output
        self.cpu: float | None = 0.0
        self.footprint: Footprint | None = Footprint(resident=script.holds, anonymous=script.holds)
        self.ports: set[int] = set()
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.stops_when.set()
        if script.exits is not None:
            self.finish(script.exits)

    def __repr__(self) -> str:
        return f"<FakeProcess {self.spec.name!r} pid={self.pid} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """See :class:`SupervisedProcess`."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """See :class:`SupervisedProcess`."""
        return await asyncio.shield(self._exited)

    def tail(self) -> str:
        """See :class:`SupervisedProcess`."""
        return self._output

    @property
    def out_of_memory(self) -> bool:
        """See :class:`SupervisedProcess`."""
        return self.returncode is not None and self._script.out_of_memory

    async def memory(self) -> Footprint | None:
        """See :class:`SupervisedProcess`. What a test set ``footprint`` to."""
        return None if self._exited.done() else self.footprint

    async def cpu_seconds(self) -> float | None:
        """See :class:`SupervisedProcess`. What a test set ``cpu`` to."""
        return self.cpu

    async def listens_on(self, port: int) -> bool | None:
        """See :class:`SupervisedProcess`. The ports a test put into ``ports``."""
        return port in self.ports

    async def stop(self, grace: float) -> int:
        """See :class:`SupervisedProcess`.

        Takes no time, unless a test cleared ``stops_when``: then it takes until that is set. The
        ``graces`` it was stopped with are kept.
        """
        self.graces.append(grace)
        await self.stops_when.wait()
        self.finish(-(SIGKILL if self._script.ignores_sigterm else SIGTERM))
        return await self.wait()

    def finish(self, returncode: int, output: str = "") -> None:
        """End by itself, with last words. Nothing happens if it has ended before."""
        if not self._exited.done():
            self._output += output
            self._exited.set_result(int(returncode))


class FakeProcessSupervisor(ProcessSupervisor):
    """Starts anything except the programs in ``missing``. ``scripts`` are by program, the first word.

    A program without a script prints nothing and runs until it is stopped. ``started`` is in order.
    """

    def __init__(
        self,
        *,
        scripts: Mapping[str, ProcessScript] | None = None,
        missing: frozenset[str] = frozenset(),
        directory: Path = Path("/fake/run"),
    ) -> None:
        self.scripts = dict(scripts or {})
        self.missing = missing
        self.started: list[FakeProcess] = []
        self._directory = directory
        self._pids = count(_FIRST_PID)
        self._sockets = count(1)
        self._tcp_ports = count(49152)

    @property
    def running(self) -> list[FakeProcess]:
        """Those that have not ended."""
        return [process for process in self.started if process.returncode is None]

    async def start(self, spec: ProcessSpec) -> FakeProcess:
        """See :class:`ProcessSupervisor`."""
        program = spec.argv[0] if spec.argv else ""
        if not program or program in self.missing:
            raise EngineUnusableError(
                spec.name, None, cause=f"cannot start {spec.name!r}: {program!r}: no such program", remedy="Install it."
            )
        process = FakeProcess(next(self._pids), spec, self.scripts.get(program, ProcessScript()))
        self.started.append(process)
        return process

    def socket_path(self, name: str) -> Path:
        """See :class:`ProcessSupervisor`."""
        return self._directory / f"{name}-{next(self._sockets)}.sock"

    def tcp_port(self) -> int:
        """See :class:`ProcessSupervisor`. Counts up from 49152."""
        return next(self._tcp_ports)
