"""What the system tells of real children: their ports, their CPU time, and whether memory ran out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from dmr_adapters.process import memory_limit
from dmr_adapters.process.child import PosixProcess
from dmr_adapters.process.memory_limit import OomCounter
from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_core.domain.memory import Footprint
from dmr_core.ports.process import ProcessSpec

DEADLINE = 20.0
LISTEN = """
import socket, sys, time
listener = socket.socket(socket.AF_INET6 if sys.argv[2:] else socket.AF_INET)
listener.bind((sys.argv[2] if sys.argv[2:] else "127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listens", flush=True)
time.sleep(1000)
"""
IN_A_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-SE', '-c', *sys.argv[1:]])"
HOLD = "import sys, time; held = b'x' * int(sys.argv[1]); print('holds', flush=True); time.sleep(1000)"
MIB = 1 << 20
COMPUTE = "print('computes', flush=True)\nwhile True: pass"


@pytest.fixture
async def supervisor() -> AsyncGenerator[PosixProcessSupervisor, None]:
    with tempfile.TemporaryDirectory(prefix="dmr-") as directory:
        async with await PosixProcessSupervisor.open(Path(directory)) as opened:
            yield opened


async def python(supervisor: PosixProcessSupervisor, *arguments: str, until: str) -> PosixProcess:
    """A child that runs this program; returns once it has printed ``until``."""
    child = await supervisor.start(ProcessSpec(name="python", argv=(sys.executable, "-SE", "-c", *arguments)))
    async with asyncio.timeout(DEADLINE):
        while until not in child.tail():
            assert child.returncode is None, child.tail()
            await asyncio.sleep(0.005)
    return child


class TestListener:
    async def test_a_child_is_known_by_its_port(self, supervisor: PosixProcessSupervisor) -> None:
        port, other = supervisor.tcp_port(), supervisor.tcp_port()
        child = await python(supervisor, LISTEN, str(port), until="listens")

        assert await child.listens_on(port) is True
        assert await child.listens_on(other) is False
        await child.stop(1.0)
        assert await child.listens_on(port) is False

    async def test_so_is_a_grandchild(self, supervisor: PosixProcessSupervisor) -> None:
        port = supervisor.tcp_port()
        child = await python(supervisor, IN_A_CHILD, LISTEN, str(port), until="listens")
        assert await child.listens_on(port) is True

    async def test_a_stranger_on_the_port_is_not_the_child(self, supervisor: PosixProcessSupervisor) -> None:
        child = await python(supervisor, COMPUTE, until="computes")
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            assert await child.listens_on(stranger.getsockname()[1]) is False

    async def test_nor_is_one_that_shares_the_number_on_another_address(
        self, supervisor: PosixProcessSupervisor
    ) -> None:
        port = supervisor.tcp_port()
        child = await python(supervisor, LISTEN, str(port), "::1", until="listens")
        assert await child.listens_on(port) is True
        with socket.create_server(("127.0.0.1", port)):
            assert await child.listens_on(port) is False

    async def test_ports_are_never_given_twice_in_a_row(self, supervisor: PosixProcessSupervisor) -> None:
        ports = [supervisor.tcp_port() for _ in range(64)]
        assert len(set(ports)) == 64


class TestOutput:
    async def test_a_child_that_closes_its_output_lives_on_and_is_stopped(
        self, supervisor: PosixProcessSupervisor
    ) -> None:
        program = "import os, sys, time; print('last words', flush=True); os.close(1); os.close(2); time.sleep(1000)"
        child = await python(supervisor, program, until="last words")
        await asyncio.sleep(0.05)
        assert child.returncode is None
        assert await child.stop(5.0) == -signal.SIGTERM
        assert "last words" in child.tail()

    async def test_ten_megabytes_without_a_line_end_hold_nobody_up(self, supervisor: PosixProcessSupervisor) -> None:
        program = "import sys; sys.stdout.write('x' * 10_000_000); sys.stdout.flush(); sys.exit('\\nthe end')"
        child = await supervisor.start(ProcessSpec(name="python", argv=(sys.executable, "-SE", "-c", program)))
        async with asyncio.timeout(DEADLINE):
            assert await child.wait() == 1
        assert child.tail().endswith("the end\n")
        assert len(child.tail()) < 256 * 1024


class TestCpu:
    async def test_a_child_that_computes_is_told_from_one_that_sleeps(self, supervisor: PosixProcessSupervisor) -> None:
        busy = await python(supervisor, IN_A_CHILD, COMPUTE, until="computes")
        idle = await python(supervisor, "import time; print('sleeps', flush=True); time.sleep(1000)", until="sleeps")
        idle_before = await idle.cpu_seconds()
        busy_before = await busy.cpu_seconds()
        assert busy_before is not None
        async with asyncio.timeout(DEADLINE):
            while (used := await busy.cpu_seconds() or 0.0) < busy_before + 0.2:
                await asyncio.sleep(0.05)

        assert used >= busy_before + 0.2
        assert await idle.cpu_seconds() == idle_before
        await busy.stop(1.0)
        assert await busy.cpu_seconds() is None


class TestFootprint:
    async def test_what_a_grandchild_holds_is_the_childs(self, supervisor: PosixProcessSupervisor) -> None:
        child = await python(supervisor, IN_A_CHILD, HOLD, str(32 * MIB), until="holds")
        used = await child.memory()
        assert used is not None
        assert 32 * MIB <= used.anonymous <= used.resident <= 80 * MIB

    async def test_so_is_what_a_worker_in_a_session_of_its_own_holds(self, supervisor: PosixProcessSupervisor) -> None:
        program = IN_A_CHILD.replace("*sys.argv[1:]]", "*sys.argv[1:]], start_new_session=True")
        child = await python(supervisor, program, HOLD, str(32 * MIB), until="holds")
        used = await child.memory()
        assert used is not None
        assert used.anonymous >= 32 * MIB

    async def test_all_children_are_added_up(self, supervisor: PosixProcessSupervisor) -> None:
        assert await supervisor.memory() is None
        children = [await python(supervisor, HOLD, str(size * MIB), until="holds") for size in (16, 48)]
        before = await supervisor.memory()
        assert before is not None
        assert 64 * MIB <= before.anonymous <= before.resident <= 128 * MIB

        await children[1].stop(1.0)
        after = await supervisor.memory()
        assert after is not None
        assert after.anonymous <= before.anonymous - 48 * MIB

    async def test_looks_at_the_same_time_are_one(
        self, supervisor: PosixProcessSupervisor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = []

        def counted(pids: list[int]) -> Footprint:
            looks.append(pids)
            return Footprint(resident=1)

        monkeypatch.setattr("dmr_adapters.process.child.footprint_of", counted)
        child = await python(supervisor, HOLD, "1", until="holds")
        one = asyncio.ensure_future(child.memory())
        others = [asyncio.ensure_future(child.memory()) for _ in range(3)]
        await asyncio.sleep(0)
        one.cancel()  # it must not take the others' answer with it
        assert await asyncio.gather(*others) == [Footprint(resident=1)] * 3
        assert looks == [[child.pid]]
        await child.memory()
        assert len(looks) == 2


class TestMemory:
    @pytest.fixture
    def count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
        """Replaces the kernel's count by this text."""
        path = tmp_path / "memory.events"
        path.write_text("low 0\nhigh 0\nmax 7\noom 3\noom_kill 3\noom_group_kill 0\n")
        monkeypatch.setattr(memory_limit, "_source", lambda: str(path))
        return path.write_text

    async def test_a_kill_that_the_kernel_counted_is_its_own(
        self, supervisor: PosixProcessSupervisor, count: Callable[[str], object]
    ) -> None:
        child = await python(supervisor, COMPUTE, until="computes")
        count("oom 4\noom_kill 4\n")
        os.kill(child.pid, signal.SIGKILL)

        assert await child.wait() == -signal.SIGKILL
        assert child.out_of_memory

    async def test_one_that_it_did_not_count_is_somebody_elses(
        self, supervisor: PosixProcessSupervisor, count: Callable[[str], object]
    ) -> None:
        child = await python(supervisor, COMPUTE, until="computes")
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        assert not child.out_of_memory

    async def test_our_own_kill_is_not_the_kernels(
        self, supervisor: PosixProcessSupervisor, count: Callable[[str], object]
    ) -> None:
        deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        child = await python(supervisor, deaf + COMPUTE, until="computes")
        count("oom_kill 4\n")
        assert await child.stop(0.05) == -signal.SIGKILL
        assert not child.out_of_memory

    def test_a_count_that_cannot_be_read_accuses_nobody(self, count: Callable[[str], object]) -> None:
        counter = OomCounter()
        for text in ("", "oom_kill x\n", "something else\n"):
            count(text)
            assert not counter.counted()

    def test_this_machine_has_a_count(self) -> None:
        memory_limit._source.cache_clear()
        path = memory_limit._source()
        if path is None:
            pytest.skip("the kernel counts no killings here")
        assert memory_limit._count(path) is not None
        assert not OomCounter().counted()
