"""``make bench-cold``: request to first token with no engine running, against the same engine started by hand.

By hand means: the program, flags and environment that dmr starts the engine with, one process, its health asked for
every millisecond, and one streamed token read straight from its socket.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import attrs

from tests.bench.processes import Unavailable, children, main, median
from tests.bench.service import ANSWER_LIMIT, MODEL, Service, ask, serving

_ROUNDS = 7
_LIMIT = 0.040
_CHAT = {"model": MODEL, "stream": True, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}


@attrs.frozen
class Engine:
    """An engine as dmr started it."""

    argv: tuple[str, ...]
    environment: dict[str, str]

    @property
    def socket(self) -> str:
        """Where it is told to listen."""
        return self.argv[self.argv.index("--host") + 1]

    def at(self, path: Path) -> tuple[str, ...]:
        """The same command, listening elsewhere."""
        return tuple(str(path) if word == self.socket else word for word in self.argv)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_LIMIT)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    cold, by_hand = [], []
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        root = Path(scratch)
        with serving(root) as service:
            _through_dmr(service)  # makes the bundle, and brings what the engine reads into memory
            engine = _engine(service)
            _unload(service)
            for number in range(_ROUNDS):
                by_hand.append(_by_hand(engine, root / f"hand-{number}.sock"))
                cold.append(_through_dmr(service))
                _unload(service)
    base, took = median(by_hand), median(cold)
    more = took - base
    print(f"request to first token, medians of {_ROUNDS} interleaved runs")
    print(f"  engine by hand   {base * 1000:6.1f} ms")
    print(f"  dmr, none loaded {took * 1000:6.1f} ms  ratio {took / base:.2f}, ", end="")
    print(f"{more * 1000:+.1f} ms, at most {_LIMIT * 1000:+.0f}: {'PASS' if more <= _LIMIT else 'FAIL'}")
    return more <= _LIMIT


def _through_dmr(service: Service) -> float:
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=ANSWER_LIMIT)
    return _first_token(connection) - began


def _by_hand(engine: Engine, path: Path) -> float:
    command = engine.at(path)
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=engine.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _healthy(path):
            if process.poll() is not None or time.perf_counter() - began > ANSWER_LIMIT:
                raise Unavailable(f"the engine did not start by hand: {' '.join(command)}")
            time.sleep(0.001)
        return _first_token(_UnixConnection(path)) - began
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _healthy(path: Path) -> bool:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _first_token(connection: http.client.HTTPConnection) -> float:
    """When the first piece of an answer was there; the rest is read too."""
    came = 0.0
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(_CHAT), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Unavailable(f"the engine answered {answer.status}: {answer.read().decode(errors='replace')}")
        for line in answer:
            if not came and _is_token(line):
                came = time.perf_counter()
    finally:
        connection.close()
    if not came:
        raise Unavailable("the answer has no token")
    return came


def _is_token(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line[6:])["choices"]
    return bool(choices) and bool(choices[0]["delta"].get("content"))


def _engine(service: Service) -> Engine:
    """What dmr started, as the system knows it."""
    for pid in children(service.process.pid):
        argv = tuple(_words(pid, "cmdline"))
        if "--host" in argv:
            return Engine(argv, dict(word.split("=", 1) for word in _words(pid, "environ")))
    raise Unavailable("the service has no engine running")


def _words(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().rstrip("\0").split("\0")


def _unload(service: Service) -> None:
    """Take the engine down; return once it is gone."""
    status, answer = ask(service.port, "/engines/unload", {"all": True})
    deadline = time.monotonic() + ANSWER_LIMIT
    while children(service.process.pid):
        if status != 200 or time.monotonic() > deadline:
            raise Unavailable(f"cannot unload: {status} {answer.decode(errors='replace')}")
        time.sleep(0.01)


if __name__ == "__main__":
    main(benchmark)
