"""Every process supervisor keeps the promises of the port."""

import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_core.ports.process import ProcessSpec, ProcessSupervisor
from dmr_core.testing.contracts.process import ProcessSupervisorContract
from dmr_core.testing.fakes.process import FakeProcessSupervisor, ProcessScript
from tests.stand_ins.event_loops import BOTH_LOOPS

_PROGRAM = """
import signal, sys, time
ignores, exits, holds, output = sys.argv[1:]
held = b"x" * int(holds)
if ignores:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(output, flush=True)
if exits:
    sys.exit(int(exits))
while True:
    time.sleep(100)
"""


class TestFakeProcessSupervisor(ProcessSupervisorContract):
    @pytest.fixture
    def supervisor(self) -> FakeProcessSupervisor:
        return FakeProcessSupervisor(missing=frozenset({"/no/such/engine"}))

    def program(self, supervisor: ProcessSupervisor, script: ProcessScript) -> ProcessSpec:
        assert isinstance(supervisor, FakeProcessSupervisor)
        supervisor.scripts["/fake/engine"] = script
        return ProcessSpec(name="engine", argv=("/fake/engine",))


@BOTH_LOOPS
class TestPosixProcessSupervisor(ProcessSupervisorContract):
    @pytest.fixture
    async def supervisor(self) -> AsyncGenerator[PosixProcessSupervisor, None]:
        with tempfile.TemporaryDirectory(prefix="dmr-") as base:
            async with await PosixProcessSupervisor.open(Path(base)) as supervisor:
                yield supervisor

    def program(self, supervisor: ProcessSupervisor, script: ProcessScript) -> ProcessSpec:
        return ProcessSpec(
            name="engine",
            argv=(
                sys.executable,
                "-SEc",
                _PROGRAM,
                "yes" if script.ignores_sigterm else "",
                "" if script.exits is None else str(script.exits),
                str(script.holds),
                script.output,
            ),
        )
