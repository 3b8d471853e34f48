"""``make bench-proxy``: what ``dmr serve`` costs in front of an engine, against nginx in front of the same engine.

An engine that answers at once (``stub_engine.c``), started once for each target, and the load run on one core; the proxy that
is measured has another for itself. Targets take turns in every round, so that a noisy machine is unfair to all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.bench.load import PATH, Events, Load, Requests
from tests.bench.processes import (
    Unavailable,
    children,
    cpu_seconds,
    free_port,
    main,
    median,
    on_core,
    running,
    wait_for,
)
from tests.bench.programs import build, find
from tests.bench.service import MODEL, ask, environment, listening, serving

_LIMIT = 0.03
_JUDGED = 16
_CLIENTS = (1, _JUDGED, 64)
_WARM_UP = 1.0
# Others, as measured elsewhere with the same method.
_PEERS = "docker/model-runner 0.012, llama-swap 0.055"


@attrs.define
class Target:
    """Something that answers on a loopback port, and what was measured of it, by number of clients."""

    name: str
    port: int
    pid: int
    requests: dict[int, list[Requests]] = attrs.field(factory=lambda: defaultdict(list))
    events: dict[int, list[Events]] = attrs.field(factory=lambda: defaultdict(list))
    cpu: dict[int, float] = attrs.field(factory=lambda: defaultdict(float))

    def rate(self, clients: int) -> float:
        """Requests per second."""
        return median([run.rate for run in self.requests[clients]])

    def cpu_per_request(self, clients: int) -> float:
        """Seconds of a core."""
        return self.cpu[clients] / max(1, sum(run.answered for run in self.requests[clients]))

    @property
    def errors(self) -> int:
        """Answers that were wrong or never came."""
        failed = [run.errors for runs in self.requests.values() for run in runs]
        failed += [run.errors for runs in self.events.values() for run in runs]
        return sum(failed)

    @property
    def silent(self) -> bool:
        """Whether some run brought no answer at all."""
        answered = [run.answered for runs in self.requests.values() for run in runs]
        answered += [run.answers for runs in self.events.values() for run in runs]
        return not all(answered)


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    options = _options()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Unavailable("this benchmark needs two cores")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dmr-bench-")))
        load = Load(
            wrk=find("wrk", "wrk"),
            sse_client=build("sse_client.c", root / "sse_client"),
            script=root / "request.lua",
            core=cores[0],
            model=MODEL,
        )
        targets = [stack.enter_context(target) for target in _targets(root, cores[0], cores[1])]
        _check(targets, load)
        _measure(targets, load, options.rounds, options.seconds)
    return _report(targets, options.rounds, options.seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.proxy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of everything (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="length of one run (%(default)s)")
    return parser.parse_args()


def _targets(root: Path, engines: int, proxies: int) -> list[contextlib.AbstractContextManager[Target]]:
    nginx = find("nginx", "nginx-light")
    engine = build("stub_engine.c", root / "engine" / "llama-server")
    return [
        _direct(root, engine, engines),
        _nginx(root, nginx, engine, engines, proxies),
        _dmr(root, engine, engines, proxies),
    ]


@contextlib.contextmanager
def _direct(root: Path, engine: Path, core: int) -> Iterator[Target]:
    port, log = free_port(), root / "stub.log"
    command = [str(engine), "--host", "127.0.0.1", "--port", str(port), "--alias", MODEL]
    with contextlib.ExitStack() as stack:
        with on_core(core):
            process = stack.enter_context(running(command, environment(root), log))
        wait_for(lambda: listening(port), process, log)
        yield Target("stub", port, process.pid)


@contextlib.contextmanager
def _nginx(root: Path, nginx: Path, engine: Path, engines: int, proxies: int) -> Iterator[Target]:
    port, own = free_port(), root / "nginx"
    own.mkdir()
    socket, log, configuration = own / "engine.sock", own / "log", own / "nginx.conf"
    text = Path(__file__).with_name("nginx.conf").read_text()
    for word, value in (
        ("USER", pwd.getpwuid(os.getuid()).pw_name),
        ("ROOT", own),
        ("SOCKET", socket),
        ("PORT", port),
    ):
        text = text.replace(word, str(value))
    configuration.write_text(text)
    with contextlib.ExitStack() as stack:
        with on_core(engines):
            command = [str(engine), "--host", str(socket), "--alias", MODEL]
            upstream = stack.enter_context(running(command, environment(root), log))
        wait_for(socket.exists, upstream, log)
        with on_core(proxies):
            command = [str(nginx), "-e", "stderr", "-p", str(own), "-c", str(configuration)]
            process = stack.enter_context(running(command, environment(root), log))
        wait_for(lambda: listening(port) and len(children(process.pid)) == 1, process, log)
        yield Target("nginx", port, children(process.pid)[0])


@contextlib.contextmanager
def _dmr(root: Path, engine: Path, engines: int, proxies: int) -> Iterator[Target]:
    with contextlib.ExitStack() as stack:
        with on_core(proxies):
            service = stack.enter_context(serving(root, {"LLAMA_SERVER_PATH": str(engine.parent)}))
        status, answer = ask(service.port, PATH, {"model": MODEL, "messages": []})  # loads the model
        if status != 200:
            raise Unavailable(f"dmr cannot run {MODEL}: {status} {answer.decode(errors='replace')}")
        runners = [
            pid for pid in children(service.process.pid) if Path(f"/proc/{pid}/comm").read_text().strip() == engine.name
        ]
        if len(runners) != 1:
            raise Unavailable(f"dmr runs {len(runners)} engines, not one")
        os.sched_setaffinity(runners[0], {engines})
        yield Target("dmr", service.port, service.process.pid)


def _check(targets: list[Target], load: Load) -> None:
    """Everyone gives the same answer, and everything is warm."""
    answers = {target.name: ask(target.port, PATH, {"model": MODEL, "messages": []}) for target in targets}
    if len(set(answers.values())) != 1:
        raise Unavailable(f"the answers differ: {answers}")
    for target in targets:
        load.requests(target.port, _JUDGED, _WARM_UP)
        load.events(target.port, _JUDGED, _WARM_UP)


def _measure(targets: list[Target], load: Load, rounds: int, seconds: float) -> None:
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for clients in _CLIENTS:
            for target in targets:
                before = cpu_seconds(target.pid)
                target.requests[clients].append(load.requests(target.port, clients, seconds))
                target.cpu[clients] += cpu_seconds(target.pid) - before
            for target in targets:
                target.events[clients].append(load.events(target.port, clients, seconds))


def _report(targets: list[Target], rounds: int, seconds: float) -> bool:
    stub, nginx, dmr = targets
    print(f"medians of {rounds} interleaved rounds of {seconds:g} s; engine and load on one core, the proxy on another")
    print(
        f"{'':6} {'clients':>7} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs/req':>11} {'SSE events/s':>13}"
    )
    for clients in _CLIENTS:
        for target in targets:
            requests = target.requests[clients]
            print(
                f"{target.name:6} {clients:7} {target.rate(clients):11,.0f} "
                f"{median([run.p50 for run in requests]) * 1e3:8.3f} {median([run.p99 for run in requests]) * 1e3:8.3f} "
                f"{target.cpu_per_request(clients) * 1e6:11.1f} {median([run.rate for run in target.events[clients]]):13,.0f}"
            )
    ratio = dmr.rate(_JUDGED) / nginx.rate(_JUDGED)
    verdicts = [
        (f"dmr / nginx, requests/s at {_JUDGED} clients: {ratio:.3f}, at least {_LIMIT}", ratio >= _LIMIT),
        (
            f"stub / nginx, requests/s at {_JUDGED} clients: {stub.rate(_JUDGED) / nginx.rate(_JUDGED):.2f}, more than 1",
            stub.rate(_JUDGED) > nginx.rate(_JUDGED),
        ),
        (
            "errors: " + ", ".join(f"{target.name} {target.errors}" for target in targets) + ", none allowed",
            not any(target.errors or target.silent for target in targets),
        ),
    ]
    for text, passed in verdicts:
        print(f"{text}: {'PASS' if passed else 'FAIL'}")
    print(f"for scale, dmr / nginx of others: {_PEERS}")
    return all(passed for _, passed in verdicts)


if __name__ == "__main__":
    main(benchmark)
