"""``make bench-tokens``: tokens per second through dmr against straight from its engine's socket.

One engine, started by dmr on a model of 309 MB with random weights, answers both; runs take turns, so that a noisy
machine is unfair to neither, and of each side the fastest quarter counts. Every answer has the same number of tokens,
and the clients only count events.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.processes import Unavailable, children, main, median
from tests.bench.random_model import random_model
from tests.bench.service import ANSWER_LIMIT, Service, ask, dmr_program, environment, serving

_MODEL = "bench/random"
_CLIENTS = (1, 8)
_LIMIT = 0.98
_SLOTS = 8
# A core is left to whoever passes tokens on: the engine's threads wait for each other, busily.
_THREADS = max(1, len(os.sched_getaffinity(0)) - 1)
_ARGUMENTS = f"-ngl 999 --metrics --parallel {_SLOTS} --threads {_THREADS}"
_PATH = "/v1/chat/completions"

Connect = Callable[[], socket.socket]


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    options = _options()
    model = random_model()
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        root = Path(scratch)
        extra = {"LLAMA_ARGS": _ARGUMENTS, "DMR_RECORD_REQUESTS": "1"}
        with serving(root, extra) as service:
            _package(root, service, model)
            status, answer = ask(service.port, _PATH, _body(1, stream=False))
            if status != 200:
                raise Unavailable(f"the model does not answer: {status} {answer.decode(errors='replace')}")
            sides = {"direct": _unix(_engine_socket(service)), "dmr": _tcp(service.port)}
            print(f"tokens per second, {model.stat().st_size / 1e6:.0f} MB, {options.rounds} interleaved rounds")
            kept = [_compare(sides, clients, options.rounds, options.tokens) for clients in _CLIENTS]
            return all(kept)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokens", description=__doc__)
    parser.add_argument("--rounds", type=int, default=16, help="runs of each side (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer (%(default)s)")
    return parser.parse_args()


def _compare(sides: dict[str, Connect], clients: int, rounds: int, tokens: int) -> bool:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    ratios = []
    for number in range(-1, rounds):  # the first, which warms up, is not counted
        order = list(sides.items())
        for name, connect in order if number % 2 else reversed(order):
            rate = _run(connect, clients, tokens)
            if number >= 0:
                rates[name].append(rate)
        if number >= 0:
            ratios.append(rates["dmr"][-1] / rates["direct"][-1])
    direct, through = _undisturbed(rates["direct"]), _undisturbed(rates["dmr"])
    ratio = through / direct
    pairs = f"median of pairs {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
    print(f"  {clients} clients: direct {direct:7.2f}, dmr {through:7.2f}  ", end="")
    print(f"ratio {ratio:.3f}, at least {_LIMIT}: {'PASS' if ratio >= _LIMIT else 'FAIL'}  ({pairs})")
    return ratio >= _LIMIT


def _undisturbed(rates: list[float]) -> float:
    """The median of the fastest quarter: whatever else a machine does only ever slows a run down."""
    return median(sorted(rates, reverse=True)[: max(1, len(rates) // 4)])


def _run(connect: Connect, clients: int, tokens: int) -> float:
    """Tokens per second of clients that ask at once, from the first request to the last token."""
    counts, failures = [0] * clients, []
    start = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        try:
            with connect() as connection:
                start.wait()
                counts[number] = _ask(connection, _body(tokens, stream=True))
        except (OSError, threading.BrokenBarrierError, Unavailable) as exc:
            failures.append(exc)
            start.abort()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    # One event says who speaks, one that it is over, and the last one is [DONE].
    if failures or any(not tokens - 2 <= count <= tokens + 4 for count in counts):
        raise Unavailable(f"answers of {tokens} tokens came in {counts} events; {failures}")
    return clients * tokens / took


def _ask(connection: socket.socket, body: object) -> int:
    """The events of a streamed answer."""
    content = json.dumps(body).encode()
    head = f"POST {_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    events, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        piece = connection.recv(65536)
        if not piece:
            raise Unavailable(f"the answer broke off: {tail!r}")
        # What was counted is left out of what is looked at again, but for a mark that may be cut in two.
        if not events and not tail and not piece.startswith(b"HTTP/1.1 200"):
            raise Unavailable(f"the answer is {piece!r}")
        events += (tail[-1:] + piece).count(b"\n\n")
        tail = (tail + piece)[-512:]
    return events


def _body(tokens: int, *, stream: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": "Write something of the length you are told."}]
    fields = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
    return {"model": _MODEL, "messages": messages, "stream": stream, **fields}


def _package(root: Path, service: Service, model: Path) -> None:
    command = [str(dmr_program()), "package", "--quiet", "--link", "--gguf", str(model), _MODEL]
    place = environment(root, {"MODEL_RUNNER_HOST": service.url})
    done = subprocess.run(command, env=place, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise Unavailable(f"cannot package {model}: {done.stderr}")


def _engine_socket(service: Service) -> str:
    for pid in children(service.process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if "--host" in words:
            return words[words.index("--host") + 1]
    raise Unavailable("the service has no engine running")


def _unix(path: str) -> Connect:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_LIMIT * 5)
        connection.connect(path)
        return connection

    return connect


def _tcp(port: int) -> Connect:
    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), ANSWER_LIMIT * 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    return connect


if __name__ == "__main__":
    main(benchmark)
