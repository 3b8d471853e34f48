"""Real children, well-behaved and not, under both event loops."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest

from dmr_adapters.process import process_table
from dmr_adapters.process.child import PosixProcess
from dmr_adapters.process.environment import MARKER
from dmr_adapters.process.process_table import Quarry
from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_adapters.transport.stream_transport import StreamTransport
from dmr_core.errors import InvalidConfigurationError, ShuttingDownError, UpstreamError
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint, UpstreamRequest
from dmr_core.testing.contracts.transport import read_all
from tests.stand_ins.event_loops import BOTH_LOOPS
from tests.stand_ins.standin_install import install_standin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

DEADLINE = 20.0
STUBBORN = "trap '' TERM; while :; do sleep 1000; done"


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path, as sockets need one."""
    with tempfile.TemporaryDirectory(prefix="dmr-") as directory:
        yield Path(directory)


@pytest.fixture
async def supervisor(base: Path) -> AsyncGenerator[PosixProcessSupervisor, None]:
    async with await PosixProcessSupervisor.open(base) as supervisor:
        yield supervisor


def shell(script: str, **environment: str) -> ProcessSpec:
    return ProcessSpec(name="engine", argv=("sh", "-c", script), environment=environment)


async def eventually(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def directories(base: Path) -> list[str]:
    return [path.name for path in base.iterdir() if path.is_dir()]


def held() -> tuple[int, int, int]:
    """Descriptors, tasks and threads of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks()), threading.active_count()


def marked(child: PosixProcess) -> list[int]:
    return process_table.find(Quarry(tokens=frozenset({child.token}), since=0))


async def printed(child: PosixProcess, word: str) -> str:
    """What follows ``word`` on its line, once it is printed."""
    await eventually(lambda: f"{word} " in child.tail() and child.tail().endswith("\n"))
    return next(line for line in child.tail().splitlines() if line.startswith(word)).removeprefix(word).strip()


@BOTH_LOOPS
class TestStop:
    async def test_term_comes_first_and_ends_the_whole_group(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell("sleep 1000 & echo grandchild $!; wait"))
        grandchild = int(await printed(child, "grandchild"))
        started = time.monotonic()
        assert await child.stop(10) == -signal.SIGTERM
        assert time.monotonic() - started < 5
        assert not is_alive(grandchild)

    async def test_kill_follows_after_the_grace(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell(f"echo ready now; {STUBBORN}"))
        await printed(child, "ready")
        started = time.monotonic()
        assert await child.stop(0.3) == -signal.SIGKILL
        assert 0.3 <= time.monotonic() - started < 5
        assert marked(child) == []

    async def test_a_grandchild_that_ignores_term_is_killed(
        self, supervisor: PosixProcessSupervisor, tmp_path: Path
    ) -> None:
        program = install_standin(tmp_path, grandchild=True)
        socket = supervisor.socket_path("engine")
        child = await supervisor.start(ProcessSpec(name="engine", argv=(str(program), "--host", str(socket))))
        grandchild = int(await printed(child, "grandchild"))
        assert await child.stop(0.2) == -signal.SIGTERM
        assert not is_alive(grandchild)

    async def test_so_is_one_that_left_for_a_session_of_its_own(
        self, supervisor: PosixProcessSupervisor, tmp_path: Path
    ) -> None:
        program = install_standin(tmp_path, grandchild="session")
        socket = supervisor.socket_path("engine")
        child = await supervisor.start(ProcessSpec(name="engine", argv=(str(program), "--host", str(socket))))
        grandchild = int(await printed(child, "grandchild"))
        await child.stop(0.2)
        assert not is_alive(grandchild)

    async def test_so_is_one_that_dropped_its_environment(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell("env -i sleep 1000 & echo grandchild $!; wait"))
        grandchild = int(await printed(child, "grandchild"))
        await child.stop(5)
        assert not is_alive(grandchild)

    async def test_a_later_stop_may_be_less_patient(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell(f"echo ready now; {STUBBORN}"))
        await printed(child, "ready")
        patient = asyncio.create_task(child.stop(1000))
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            assert await child.stop(0) == -signal.SIGKILL
            assert await patient == -signal.SIGKILL

    async def test_a_cancelled_stop_finishes_by_itself(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell(f"echo ready now; {STUBBORN}"))
        await printed(child, "ready")
        stopping = asyncio.create_task(child.stop(0.1))
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await eventually(lambda: child.returncode == -signal.SIGKILL)
        await child.stop(0)
        assert marked(child) == []


@BOTH_LOOPS
class TestEnd:
    async def test_what_a_crashed_child_leaves_is_killed_unasked(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell(f'sh -c "{STUBBORN}" & echo grandchild $!; kill -9 $$'))
        async with asyncio.timeout(DEADLINE):
            assert await child.wait() == -signal.SIGKILL
        grandchild = int(await printed(child, "grandchild"))
        await eventually(lambda: not is_alive(grandchild))
        await child.stop(0)

    async def test_a_grandchild_that_keeps_the_pipe_open_hangs_nobody(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(
            shell("setsid sh -c 'trap \"\" TERM; while :; do echo still here; done' & exit 7")
        )
        async with asyncio.timeout(DEADLINE):
            assert await child.wait() == 7
            assert await child.stop(0.1) == 7
        assert marked(child) == []

    async def test_last_words_are_there_when_wait_returns(self, supervisor: PosixProcessSupervisor) -> None:
        child = await supervisor.start(shell("head -c 60000 /dev/zero | tr '\\0' y; echo; echo the cause >&2; exit 1"))
        assert await child.wait() == 1
        assert child.tail().endswith("the cause\n")

    async def test_programs_that_cannot_run_are_named(self, supervisor: PosixProcessSupervisor, tmp_path: Path) -> None:
        plain = tmp_path / "engine"
        plain.write_text("no program")
        for argv in ((str(plain),), (str(tmp_path / "none"),), ("a\0b",), ()):
            with pytest.raises(UpstreamError, match="cannot start 'engine'"):
                await supervisor.start(ProcessSpec(name="engine", argv=argv))
        assert [path.name for path in supervisor.directory.iterdir()] == ["daemon.lock"]


@BOTH_LOOPS
class TestOutput:
    async def test_a_giant_line_and_every_byte_pass(
        self, supervisor: PosixProcessSupervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="dmr.engine")
        program = install_standin(tmp_path, long_line=8 * 2**20, binary=True)
        socket = supervisor.socket_path("engine")
        child = await supervisor.start(ProcessSpec(name="llama.cpp", argv=(str(program), "--host", str(socket))))
        await eventually(lambda: "standin: listening" in child.tail())
        assert len(child.tail()) < 2**18
        await child.stop(5)
        messages = [record.getMessage() for record in caplog.records if record.name == "dmr.engine.llama_cpp"]
        assert any(message.endswith("standin: listening") for message in messages)
        assert max(map(len, messages)) < 2**14
        assert {character for character in "".join(messages) if ord(character) < 32} <= {"\t"}

    async def test_secrets_and_homes_are_not_shown(self, base: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="dmr.engine")
        environ = {**os.environ, "HOME": "/home/ada"}
        said = "Bearer abc.def sk-0123456789 hf_0123456789 --api-key 12345 /home/ada/models/x /home/ada/y /home/adam/z"
        async with await PosixProcessSupervisor.open(base, environ=environ, models=Path("/home/ada/models")) as opened:
            child = await opened.start(shell(f"echo '{said}'"))
            await child.wait()
            shown = child.tail()
        assert shown == "Bearer *** *** *** --api-key *** models/x ~/y /home/adam/z\n"
        assert not any(secret in caplog.text for secret in ("abc.def", "sk-0", "hf_0", "12345"))


@BOTH_LOOPS
class TestEnvironment:
    async def test_only_what_is_allowed_is_passed(self, base: Path) -> None:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": "/home/ada",
            "LC_ALL": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "1",
            "HF_TOKEN": "secret",
            "NVIDIA_API_KEY": "secret",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "SOMETHING": "else",
        }
        async with await PosixProcessSupervisor.open(base, environ=environ) as opened:
            child = await opened.start(
                ProcessSpec(name="e", argv=("env",), environment={"EXTRA": "1", MARKER: "forged"})
            )
            await child.wait()
            seen = dict(line.split("=", 1) for line in child.tail().splitlines())
        assert seen.pop(MARKER) == child.token
        assert seen == {
            "PATH": environ["PATH"],
            "HOME": "~",
            "LC_ALL": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "1",
            "SPT_NOENV": "1",
            "EXTRA": "1",
        }

    async def test_no_descriptor_is_inherited(self, supervisor: PosixProcessSupervisor) -> None:
        read, write = os.pipe()
        os.set_inheritable(write, True)
        try:
            child = await supervisor.start(shell("ls /proc/self/fd; readlink /proc/self/fd/0"))
            await child.wait()
        finally:
            os.close(read)
            os.close(write)
        assert child.tail().split() == ["0", "1", "2", "3", "/dev/null"]  # 3 is the directory that ls reads


DAEMON = """
import asyncio, sys
from pathlib import Path
from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_core.ports.process import ProcessSpec

async def main(base, program):
    supervisor = await PosixProcessSupervisor.open(Path(base))
    socket = supervisor.socket_path("engine")
    child = await supervisor.start(ProcessSpec(name="engine", argv=(program, "--host", str(socket))))
    while "listening" not in child.tail():
        await asyncio.sleep(0.005)
    print(child.pid, child.tail().split()[1], flush=True)
    await asyncio.Event().wait()

if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(main(*sys.argv[1:3]))
else:
    asyncio.run(main(*sys.argv[1:3]))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
class TestKilledDaemon:
    @pytest.fixture
    def daemon(self, base: Path, tmp_path: Path, loop: str) -> Iterator[tuple[int, int]]:
        """Kills a daemon with an engine and its stubborn grandchild; their pids."""
        program = install_standin(tmp_path, grandchild="session", ignore_sigterm=True)
        root = Path(__file__).parents[2]
        daemon = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(base), str(program), loop],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        with daemon:
            assert daemon.stdout is not None
            engine, grandchild = map(int, daemon.stdout.readline().split())
            assert is_alive(engine)
            assert is_alive(grandchild)
            daemon.kill()
        yield engine, grandchild
        if is_alive(grandchild):
            os.kill(grandchild, signal.SIGKILL)

    async def test_its_child_dies_with_it(self, daemon: tuple[int, int]) -> None:
        await eventually(lambda: not is_alive(daemon[0]), 2.0)

    async def test_the_next_one_ends_what_is_left(
        self, base: Path, daemon: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        engine, grandchild = daemon
        await eventually(lambda: not is_alive(engine), 2.0)
        assert is_alive(grandchild), "the test would prove nothing"
        async with await PosixProcessSupervisor.open(base) as supervisor:
            assert not is_alive(grandchild)
            assert directories(base) == [supervisor.directory.name]
        assert "outlived their daemon" in caplog.text


class TestSweep:
    async def test_a_living_neighbour_is_left_alone(self, base: Path) -> None:
        async with await PosixProcessSupervisor.open(base) as first:
            child = await first.start(shell("sleep 1000"))
            async with await PosixProcessSupervisor.open(base) as second:
                assert first.directory.exists()
                assert second.directory.exists()
                assert is_alive(child.pid)

    async def test_a_number_that_was_given_to_somebody_else_is_left_alone(self, base: Path) -> None:
        dead = base / "0123abcd"
        dead.mkdir()
        started = process_table.start_time(os.getpid())
        assert started is not None
        with subprocess.Popen(["sleep", "1000"]) as innocent:  # noqa: ASYNC220 - returns at once
            record = {"token": "0" * 32, "pid": innocent.pid, "start_time": started, "boot_id": process_table.boot_id()}
            (dead / "a.json").write_text(json.dumps(record))
            (dead / "b.json").write_text("{")
            (dead / "c.json").write_text('{"token": "", "pid": 1}')
            async with await PosixProcessSupervisor.open(base):
                assert not dead.exists()
                assert innocent.poll() is None
            innocent.kill()

    async def test_what_is_not_ours_is_not_removed(self, base: Path) -> None:
        (base / "precious").mkdir()
        (base / "0123abcd").symlink_to(base / "precious")
        async with await PosixProcessSupervisor.open(base):
            assert (base / "precious").is_dir()
            assert (base / "0123abcd").is_symlink()

    async def test_a_base_that_others_can_enter_is_refused(self, base: Path) -> None:
        os.chmod(base, 0o755)
        with pytest.raises(InvalidConfigurationError, match="chmod 700"):
            await PosixProcessSupervisor.open(base)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
    async def test_a_base_of_another_user_is_refused(self, base: Path) -> None:
        os.chown(base, 12345, -1)
        with pytest.raises(InvalidConfigurationError, match="another user"):
            await PosixProcessSupervisor.open(base)

    async def test_a_base_too_deep_for_sockets_is_refused(self, base: Path) -> None:
        with pytest.raises(InvalidConfigurationError, match="too deep"):
            await PosixProcessSupervisor.open(base / ("x" * 100))

    async def test_the_runtime_directory_of_the_session_is_preferred(self, base: Path) -> None:
        async with await PosixProcessSupervisor.open(environ={"XDG_RUNTIME_DIR": str(base)}) as supervisor:
            assert supervisor.directory.parent == base / "dmr"
            assert supervisor.directory.stat().st_mode & 0o777 == 0o700


@BOTH_LOOPS
class TestLifecycle:
    async def test_fifty_starts_and_stops_leave_nothing(self, supervisor: PosixProcessSupervisor) -> None:
        async def once() -> None:
            child = await supervisor.start(shell("sleep 1000 & wait"))
            assert await child.stop(5) == -signal.SIGTERM
            assert marked(child) == []

        await once()  # what is made once and kept
        before = held()
        async with asyncio.timeout(40):
            for _ in range(10):
                await asyncio.gather(*(once() for _ in range(5)))
        assert held() == before
        assert [path.name for path in supervisor.directory.iterdir()] == ["daemon.lock"]

    async def test_closing_stops_everything_and_removes_the_directory(self, base: Path) -> None:
        supervisor = await PosixProcessSupervisor.open(base)
        children = [await supervisor.start(shell("sleep 1000")) for _ in range(3)]
        await supervisor.aclose()
        await supervisor.aclose()
        assert [child.returncode for child in children] == [-signal.SIGTERM] * 3
        assert not supervisor.directory.exists()
        with pytest.raises(ShuttingDownError):
            await supervisor.start(shell("true"))

    async def test_an_engine_is_started_asked_and_stopped(
        self, supervisor: PosixProcessSupervisor, tmp_path: Path
    ) -> None:
        program = install_standin(tmp_path, starts=str(tmp_path / "starts"))
        socket = supervisor.socket_path("llamacpp")
        argv = (str(program), "--alias", "ai/echo", "--host", str(socket), "--ctx-size", "512")
        child = await supervisor.start(ProcessSpec(name="llamacpp", argv=argv))
        await eventually(lambda: "listening" in child.tail())
        transport = StreamTransport()
        body = {"messages": [{"role": "user", "content": "hello there"}]}
        request = UpstreamRequest("POST", "/v1/chat/completions", (), json.dumps(body).encode())
        answer = json.loads(await read_all(await transport.send(Endpoint(socket), request)))
        assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("ai/echo", "hello there")
        request = UpstreamRequest("POST", "/v1/chat/completions", (), json.dumps({**body, "stream": True}).encode())
        events = (await read_all(await transport.send(Endpoint(socket), request))).decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        assert len(events) == 5
        await transport.aclose()
        await child.stop(5)
        started = json.loads((tmp_path / "starts").read_text())
        assert started == {"pid": child.pid, "argv": list(argv[1:])}


async def test_children_are_seen_to_end_though_sigchld_was_inherited_as_ignored(base: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with await PosixProcessSupervisor.open(base) as supervisor:
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
            child = await supervisor.start(shell("exit 3"))
            async with asyncio.timeout(DEADLINE):
                assert await child.wait() == 3
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_look_that_takes_long_holds_up_no_end(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking, release = threading.Event(), threading.Event()

    def stuck(_pids: object) -> None:
        looking.set()
        release.wait(DEADLINE)

    monkeypatch.setattr("dmr_adapters.process.child.footprint_of", stuck)
    async with await PosixProcessSupervisor.open(base) as supervisor:
        one, two = await supervisor.start(shell(STUBBORN)), await supervisor.start(shell("sleep 1000"))
        look = asyncio.ensure_future(one.memory())
        await eventually(looking.is_set)
        async with asyncio.timeout(3.0):
            await two.stop(1.0)
        release.set()
        await look
        await one.stop(0.0)


async def test_a_look_that_takes_too_long_finds_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck(*_arguments: object) -> None:
        release.wait(DEADLINE)

    monkeypatch.setattr("dmr_adapters.process.child._LONGEST_LOOK", 0.1)
    monkeypatch.setattr("dmr_adapters.process.child.footprint_of", stuck)
    monkeypatch.setattr("dmr_adapters.process.listeners.holds_listener", stuck)
    monkeypatch.setattr("dmr_adapters.process.process_table.cpu_seconds", stuck)
    supervisor = await PosixProcessSupervisor.open(base)
    child = await supervisor.start(shell("sleep 1000"))
    try:
        async with asyncio.timeout(3.0):
            found = await asyncio.gather(child.memory(), child.listens_on(1), child.cpu_seconds(), child.memory())
            assert set(found) == {None}
            await supervisor.aclose(0.0)  # though they are still at it
    finally:
        release.set()
        await supervisor.aclose(0.0)
    await eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith("process-look")])


async def test_a_look_is_called_off_when_the_supervisor_closes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds nothing; who asked is not cancelled with it."""
    release = threading.Event()
    monkeypatch.setattr("dmr_adapters.process.child.footprint_of", lambda _pids: release.wait(DEADLINE))
    async with await PosixProcessSupervisor.open(base) as supervisor:
        children = [await supervisor.start(shell("sleep 1000")) for _ in range(3)]
        looks = [asyncio.ensure_future(child.memory()) for child in children]
        await asyncio.sleep(0.05)
        await supervisor.aclose(0.0)
        async with asyncio.timeout(1.0):
            assert await asyncio.gather(*looks) == [None] * 3
        release.set()


async def test_a_child_that_somebody_else_reaped_has_ended_with_a_status_nobody_knows(base: Path) -> None:
    async with await PosixProcessSupervisor.open(base) as supervisor:
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a library may do so at any time
        try:
            child = await supervisor.start(shell("sleep 0.3; exit 3"))
            async with asyncio.timeout(DEADLINE):
                assert await child.wait() == 255
                assert await child.stop(1.0) == 255
        finally:
            signal.signal(signal.SIGCHLD, before)


async def test_a_program_that_prints_without_end_leaves_the_loop_to_others(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dmr.engine")
    async with await PosixProcessSupervisor.open(base) as supervisor:
        child = await supervisor.start(shell("exec yes"))
        began = time.monotonic()
        for _ in range(50):
            await asyncio.sleep(0.01)
        logged = len(caplog.records)
        # It prints millions of lines in that time; 500 of each second are worth one, and a line about the others.
        assert 0 < logged <= 501 * (int(time.monotonic() - began) + 2)
        assert child.tail().endswith("y\n")
        await child.stop(0.0)
