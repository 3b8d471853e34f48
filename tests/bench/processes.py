"""Processes of a benchmark: started on a chosen core, measured, and gone when it ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["Unavailable", "children", "cpu_seconds", "free_port", "main", "median", "on_core", "running", "wait_for"]

_STOP_LIMIT = 15.0
_START_LIMIT = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Unavailable(Exception):  # noqa: N818 - a condition of the machine, not an error of the benchmark
    """Something the benchmark cannot do without is not there; the message says what."""


def main(benchmark: Callable[[], bool]) -> None:
    """Run a benchmark as a program: 0 when every bar is met, 1 when not, 2 when it cannot run here, 130 interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # unwinds, so that everything started is stopped
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the interpreter's own is always a text file
    try:
        code = 0 if benchmark() else 1
    except Unavailable as error:
        print(error, file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Whatever is started inside runs on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped in the end; what it writes goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_LIMIT)
    except BaseException:
        process.kill()
        process.wait()
        raise


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until ``process`` is ready; fail with what it wrote if it ends or takes too long."""
    deadline = time.monotonic() + _START_LIMIT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{process.args!r} did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += (int(child) for child in (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """The time that a process, with its threads, has kept a core busy."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def free_port() -> int:
    """A loopback port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
