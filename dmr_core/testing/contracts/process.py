"""What every process supervisor promises."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import pytest

from dmr_core.errors import EngineUnusableError
from dmr_core.ports.process import ProcessSpec, ProcessSupervisor, SupervisedProcess
from dmr_core.testing.fakes.process import ProcessScript

__all__ = ["ProcessSupervisorContract"]

_DEADLINE = 20.0
_MIB = 1 << 20


class ProcessSupervisorContract(ABC):
    """Subclass it, and say how to make a supervisor and a program that follows a script."""

    @pytest.fixture
    @abstractmethod
    def supervisor(self) -> ProcessSupervisor:
        """The supervisor under test."""

    @abstractmethod
    def program(self, supervisor: ProcessSupervisor, script: ProcessScript) -> ProcessSpec:
        """Something to start that behaves as ``script`` says. It prints before it heeds or ignores signals."""

    async def test_a_process_that_ends_tells_its_status_and_last_words(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript(output="out of memory", exits=3)))
        async with asyncio.timeout(_DEADLINE):
            assert await process.wait() == 3
        assert process.returncode == 3
        assert "out of memory" in process.tail()

    async def test_a_running_process_has_no_status(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript(output="ready")))
        assert process.returncode is None
        assert process.pid > 0
        await process.stop(1.0)

    async def test_stop_asks_first(self, supervisor: ProcessSupervisor) -> None:
        script = ProcessScript(output="ready")
        process = await supervisor.start(self.program(supervisor, script))
        await self._printed(process, script)
        async with asyncio.timeout(_DEADLINE):
            assert await process.stop(10.0) == -15
        assert process.returncode == -15

    async def test_stop_insists_after_the_grace(self, supervisor: ProcessSupervisor) -> None:
        script = ProcessScript(output="ready", ignores_sigterm=True)
        process = await supervisor.start(self.program(supervisor, script))
        await self._printed(process, script)
        async with asyncio.timeout(_DEADLINE):
            assert await process.stop(0.1) == -9

    async def test_stop_is_idempotent(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript()))
        async with asyncio.timeout(_DEADLINE):
            first, second = await asyncio.gather(process.stop(1.0), process.stop(1.0))
            assert first == second == await process.stop(1.0) == await process.wait()

    async def test_stopping_what_has_ended_tells_how_it_ended(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript(exits=0)))
        async with asyncio.timeout(_DEADLINE):
            assert await process.wait() == 0
            assert await process.stop(1.0) == 0

    async def test_many_wait_and_one_may_give_up(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript()))
        waiters = [asyncio.create_task(process.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiters[0]
        assert process.returncode is None
        async with asyncio.timeout(_DEADLINE):
            status = await process.stop(1.0)
            assert [status, status] == await asyncio.gather(*waiters[1:])

    async def test_a_missing_program_is_named(self, supervisor: ProcessSupervisor) -> None:
        with pytest.raises(EngineUnusableError, match="/no/such/engine") as caught:
            await supervisor.start(ProcessSpec(name="engine", argv=("/no/such/engine", "--port", "0")))
        assert caught.value.cause
        assert caught.value.remedy

    async def test_ports_are_fresh(self, supervisor: ProcessSupervisor) -> None:
        ports = [supervisor.tcp_port() for _ in range(20)]
        assert len(set(ports)) == 20
        assert all(1024 < port < 65536 for port in ports)

    async def test_a_process_does_not_listen_where_it_does_not(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript()))
        assert await process.listens_on(supervisor.tcp_port()) is not True
        await process.stop(1.0)

    async def test_cpu_time_is_told_while_it_runs(self, supervisor: ProcessSupervisor) -> None:
        process = await supervisor.start(self.program(supervisor, ProcessScript(output="ready")))
        used = await process.cpu_seconds()
        assert used is None or used >= 0.0
        assert not process.out_of_memory
        await process.stop(1.0)

    async def test_memory_is_told_while_it_runs(self, supervisor: ProcessSupervisor) -> None:
        script = ProcessScript(output="ready", holds=64 * _MIB)
        process = await supervisor.start(self.program(supervisor, script))
        await self._printed(process, script)
        used = await process.memory()
        if used is not None:  # some systems do not tell
            # The program itself needs some too.
            assert script.holds <= used.anonymous <= used.resident <= script.holds + 48 * _MIB
        await process.stop(1.0)
        assert await process.memory() is None

    async def test_socket_paths_are_fresh_and_named(self, supervisor: ProcessSupervisor) -> None:
        paths = [supervisor.socket_path("llamacpp") for _ in range(3)]
        assert len(set(paths)) == 3
        assert all(path.is_absolute() and path.name.startswith("llamacpp-") for path in paths)
        assert all(path.suffix == ".sock" for path in paths)

    async def _printed(self, process: SupervisedProcess, script: ProcessScript) -> None:
        async with asyncio.timeout(_DEADLINE):
            while script.output not in process.tail():  # noqa: ASYNC110 - output is looked at, not waited for
                await asyncio.sleep(0.005)
