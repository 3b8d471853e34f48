"""Clients that read slowly, wait long, or leave: what that costs the service and its engine."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon
from tests.stand_ins.standin_install import install_standin, reconfigure_standin

MODEL = "dmr/demo"
MIB = 1 << 20


@pytest.fixture
def engine(daemon: Daemon) -> Path:
    """A stand-in engine for the daemon, which is not started yet."""
    program = install_standin(daemon.root / "engine")
    daemon.environment["LLAMA_SERVER_PATH"] = str(program.parent)
    return program


def request(text: str = "hello there you", **fields: object) -> bytes:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}], **fields}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def connect(daemon: Daemon, content: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", daemon.port), 30)
    connection.sendall(content)
    return connection


def resident(daemon: Daemon) -> int:
    """Bytes of memory the daemon has."""
    assert daemon.process is not None
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def read_to(connection: socket.socket, mark: bytes) -> bytes:
    read = b""
    while mark not in read:
        piece = connection.recv(65536)
        assert piece, read[-500:]
        read += piece
    return read


# --- reading nothing --------------------------------------------------------------------------------


def growth_by_stalled_clients(daemon: Daemon, engine: Path, clients: int, seconds: float) -> float:
    """Bytes of the daemon's memory for each client that reads nothing of a stream without an end."""
    reconfigure_standin(engine, events=10**6)
    daemon.start()
    daemon.cli("pull", MODEL)
    with ExitStack() as warm:  # what the first streams cost is not theirs alone
        for _ in range(clients):
            read_to(warm.enter_context(connect(daemon, request())), b"data:")
    with ExitStack() as stalled:
        before = resident(daemon)
        for _ in range(clients):
            stalled.enter_context(connect(daemon, request()))
        until, most = time.monotonic() + seconds, before
        while time.monotonic() < until:
            most = max(most, resident(daemon))
            assert daemon.process is not None
            assert daemon.process.poll() is None
            time.sleep(0.1)
    grown = (most - before) / clients
    print(f"{clients} clients that read nothing for {seconds:g} s cost {grown / MIB:.3f} MiB each")
    return grown


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_client_that_reads_nothing_for_a_minute_costs_less_than_a_megabyte(daemon: Daemon, engine: Path) -> None:
    assert growth_by_stalled_clients(daemon, engine, 40, 60.0) < 1_000_000


def test_an_engine_waits_for_a_client_that_reads_nothing(daemon: Daemon, engine: Path) -> None:
    """The minute's cheap sibling: an engine that is not held back makes tens of megabytes in a second."""
    assert growth_by_stalled_clients(daemon, engine, 10, 1.0) < 1_000_000


# --- leaving ----------------------------------------------------------------------------------------


def departures(file: Path, count: int) -> Iterator[float]:
    deadline = time.monotonic() + 20
    while len(lines := file.read_text().splitlines() if file.exists() else []) < count:
        assert time.monotonic() < deadline, "the engine was not told"
        time.sleep(0.002)
    return map(float, lines)


def test_a_client_that_leaves_frees_its_engine_at_once(daemon: Daemon, engine: Path) -> None:
    """As the engine sees it; what is asserted is generous, the figure is printed."""
    file = daemon.root / "departures"
    reconfigure_standin(engine, hang_after=2, departures=str(file))
    daemon.start()
    daemon.cli("pull", MODEL)
    delays = []
    for count in range(1, 11):
        connection = connect(daemon, request())
        read_to(connection, b"there")
        left = time.monotonic()
        connection.close()
        delays.append(max(departures(file, count)) - left)
    delays.sort()
    print(f"client gone to engine told: median {delays[5] * 1e3:.1f} ms, worst {delays[-1] * 1e3:.1f} ms")

    assert delays[5] < 0.1
    (runner,) = json.loads(daemon.cli("ps", "--json").stdout)
    assert "in_use" not in runner


# --- waiting ----------------------------------------------------------------------------------------


async def all_answers(daemon: Daemon, count: int) -> list[bytes]:
    """What so many streams at once bring, each read to its end."""

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(request())
        read = b""
        while not read.endswith(b"\r\n0\r\n\r\n") and (piece := await reader.read(65536)):
            read += piece
        writer.close()
        await writer.wait_closed()
        return read

    return await asyncio.gather(*(one() for _ in range(count)))


def idle_streams(daemon: Daemon, engine: Path, count: int, seconds: float) -> None:
    reconfigure_standin(engine, pause_after=1, pause=seconds)
    daemon.start()
    daemon.cli("pull", MODEL)
    answers = asyncio.run(all_answers(daemon, count))

    assert len(answers) == count
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"data: [DONE]" in answer
        assert b'"error"' not in answer


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_streams_that_are_silent_for_two_minutes_all_finish(daemon: Daemon, engine: Path) -> None:
    idle_streams(daemon, engine, 200, 120.0)


def test_many_streams_that_are_silent_for_a_moment_all_finish(daemon: Daemon, engine: Path) -> None:
    idle_streams(daemon, engine, 100, 0.5)
