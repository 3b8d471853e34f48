"""A real service and the real client, as their users have them: child processes on the installed packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest

START_LIMIT = 30.0
STOP_LIMIT = 20.0


@attrs.define
class Daemon:
    """One ``dmr serve`` on a loopback port, with a store, runtime directory and home of its own."""

    root: Path
    environment: dict[str, str]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.root / "serve.log"

    def start(self, *arguments: str) -> None:
        """Start it and return once it answers."""
        self.port = self.port or _free_port()
        command = [sys.executable, "-m", "dmr_cli", "serve", "--port", str(self.port), *arguments]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        deadline = time.monotonic() + START_LIMIT
        while self.process.poll() is not None or self.cli("status", check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"the service did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail("the service did not stop")
        finally:
            self.process = None

    def cli(
        self, *arguments: str, check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``dmr`` against it."""
        environment = {**self.environment, "MODEL_RUNNER_HOST": self.url}
        done = subprocess.run(
            [sys.executable, "-m", "dmr_cli", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(
                f"dmr {' '.join(arguments)} exited with {done.returncode}:\n{done.stderr.decode()}\n{self.log.read_text()}"
            )
        return done

    def engines(self) -> list[int]:
        """Processes of engines this daemon, or an earlier one on its directories, started and that still live."""
        return processes_holding(str(self.root / "run"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has not been started yet."""
    made = Daemon(tmp_path, daemon_environment(tmp_path))
    try:
        yield made
    finally:
        made.stop()
    assert made.engines() == []


def daemon_environment(root: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's user is read or written."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    (root / "home").mkdir(exist_ok=True)
    return {
        **kept,
        "HOME": str(root / "home"),
        "MODELS_PATH": str(root / "models"),
        "DMR_RUNTIME_DIR": str(root / "run"),
        "PYTHONWARNINGS": "error",
    }


def processes_holding(text: str) -> list[int]:
    """Live processes that have ``text`` in their command line, the caller's own aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(int(entry.name))
    return found


def gone(pids: Sequence[int], limit: float = 5.0) -> bool:
    """Whether none of these processes lives, or is at most a zombie, within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}/exe").exists() and _alive(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
