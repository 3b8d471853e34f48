"""``make bench-store``: what a service with 1,000 and 10,000 models takes to list them, to chat and to tag, against one model.

Everything else about the services is the same: the engine answers at once (``stub_engine.c``), and requests of the services take
turns, so that a noisy machine is unfair to all.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import attrs

from tests.bench.filled_store import fill_store, name_of
from tests.bench.load import PATH
from tests.bench.processes import Unavailable, main, median
from tests.bench.programs import build
from tests.bench.service import ANSWER_LIMIT, MODEL, Service, ask, dmr_program, environment, serving

_COUNTS = (1, 1_000, 10_000)
_LISTINGS = ("/models", "/v1/models")
_LIST_LIMITS = {1_000: 0.020, 10_000: 0.200}
_CHAT_LIMIT = 1.10
_TAG_LIMIT = 0.100
_WARM_UP = 20
_STARTS = 3  # of each service; a first listing comes once in each
# The reference, as measured elsewhere with the same method.
_PEERS = "docker/model-runner with 1,000 models: GET /models 14 s, warm chat + 13 s"


@attrs.define
class Target:
    """A service, and what was measured of it. Times in seconds."""

    models: int
    service: Service
    connection: http.client.HTTPConnection
    start: float
    root: Path
    first: dict[str, list[float]] = attrs.field(factory=dict)
    changed: list[float] = attrs.field(factory=list)
    listings: dict[str, list[float]] = attrs.field(factory=dict)
    unchanged: list[float] = attrs.field(factory=list)
    chats: list[float] = attrs.field(factory=list)
    tags: list[float] = attrs.field(factory=list)
    untags: list[float] = attrs.field(factory=list)
    commands: list[float] = attrs.field(factory=list)
    short_ids: list[float] = attrs.field(factory=list)

    def time(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> float:
        """How long an answer takes from the first byte of the request to the last one of the answer."""
        return self.exchange(method, path, body, headers)[0]

    def exchange(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[float, http.client.HTTPResponse, bytes]:
        """The time, the answer and its body."""
        content = None if body is None else json.dumps(body)
        began = time.perf_counter()
        self.connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
        answer = self.connection.getresponse()
        text = answer.read()
        took = time.perf_counter() - began
        if answer.status not in (200, 201, 304):
            raise Unavailable(f"{method} {path} was answered with {answer.status} {text.decode(errors='replace')}")
        return took, answer, text


def benchmark() -> bool:
    """Measure and print; whether every limit is kept."""
    options = _options()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dmr-bench-")))
        engine = build("stub_engine.c", root / "engine" / "llama-server")
        targets = [stack.enter_context(_target(root / str(count), engine, count)) for count in _COUNTS]
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for target in targets:
                _round(target, number)
        _chats(targets, options.chats)
        return _report(targets, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="listings and changes of each service (%(default)s)")
    parser.add_argument("--chats", type=int, default=2000, help="chats with each service (%(default)s)")
    return parser.parse_args()


@contextlib.contextmanager
def _target(root: Path, engine: Path, count: int) -> Iterator[Target]:
    print(f"making a store of {count:,} models", file=sys.stderr)
    root.mkdir()
    fill_store(root / "models", count - 1)  # with the bundled model, which is the one that chats
    first: dict[str, list[float]] = {}
    for _ in range(_STARTS - 1):
        with _started(root, engine, count) as target:
            _list_first(target, first)
    with _started(root, engine, count) as target:
        _list_first(target, first)
        target.first = first
        _load(target)
        yield target


@contextlib.contextmanager
def _started(root: Path, engine: Path, count: int) -> Iterator[Target]:
    began = time.perf_counter()
    with serving(root, {"LLAMA_SERVER_PATH": str(engine.parent)}) as service:
        start = time.perf_counter() - began
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=ANSWER_LIMIT)
        try:
            yield Target(count, service, connection, start, root)
        finally:
            connection.close()


def _list_first(target: Target, first: dict[str, list[float]]) -> None:
    """List for the first time since the start; every model is there."""
    for path in _LISTINGS:
        took, _, body = target.exchange("GET", path)
        first.setdefault(path, []).append(took)
        document = json.loads(body)
        found = len(document if path == "/models" else document["data"])
        if found != target.models:
            raise Unavailable(f"GET {path} lists {found} models, not {target.models}")


def _load(target: Target) -> None:
    status, answer = ask(target.service.port, PATH, {"model": MODEL, "messages": []})
    if status != 200:
        raise Unavailable(f"dmr cannot run {MODEL}: {status} {answer.decode(errors='replace')}")


def _round(target: Target, number: int) -> None:
    for path in _LISTINGS:
        for _ in range(3):
            target.listings.setdefault(path, []).append(target.time("GET", path))
    _, answer, body = target.exchange("GET", "/models")
    if etag := answer.getheader("etag"):
        target.unchanged.append(target.time("GET", "/models", headers={"If-None-Match": etag}))
    short = json.loads(body)[-1]["id"][7:19]
    target.short_ids.append(target.time("GET", f"/models/{short}"))
    repo, tag = "bench/tagged", f"v{number}"
    source = name_of(target.models // 2) if target.models > 1 else MODEL
    target.tags.append(target.time("POST", f"/models/{quote(source)}/tag?repo={repo}&tag={tag}"))
    target.changed.append(target.time("GET", "/models"))
    target.untags.append(target.time("DELETE", f"/models/{repo}:{tag}"))
    began = time.perf_counter()
    subprocess.run(
        [str(dmr_program()), "list"],
        env=environment(target.root, {"MODEL_RUNNER_HOST": target.service.url}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    target.commands.append(time.perf_counter() - began)


def _chats(targets: list[Target], count: int) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    for number in range(count + _WARM_UP):
        for target in targets:
            took = target.time("POST", PATH, body)
            if number >= _WARM_UP:
                target.chats.append(took)


def _report(targets: list[Target], options: argparse.Namespace) -> bool:
    print(f"medians of {options.rounds} interleaved rounds and {options.chats} chats with each; milliseconds")
    rows: list[tuple[str, list[float]]] = [("start, and a model added", [t.start for t in targets])]
    for path in _LISTINGS:
        rows.append((f"GET {path}, first", [median(t.first[path]) for t in targets]))
        rows.append((f"GET {path}", [median(t.listings[path]) for t in targets]))
    rows += [
        ("GET /models right after a tag", [median(t.changed) for t in targets]),
        ("GET /models, If-None-Match", [median(t.unchanged) if t.unchanged else 0.0 for t in targets]),
        ("GET /models/{short ID}", [median(t.short_ids) for t in targets]),
        ("tag", [median(t.tags) for t in targets]),
        ("untag", [median(t.untags) for t in targets]),
        ("dmr list", [median(t.commands) for t in targets]),
        ("warm chat", [median(t.chats) for t in targets]),
    ]
    print(f"{'':40}" + "".join(f"{f'{t.models:,}':>12}" for t in targets))
    for name, values in rows:
        print(f"{name:40}" + "".join(f"{value * 1e3:12.2f}" for value in values))
    passed = True
    for target in targets[1:]:
        verdicts = [
            (f"GET /models ≤ {_LIST_LIMITS[target.models] * 1e3:g} ms", _listed(target) <= _LIST_LIMITS[target.models]),
            (f"tag < {_TAG_LIMIT * 1e3:g} ms", median(target.tags) < _TAG_LIMIT),
        ]
        ratio = median(target.chats) / median(targets[0].chats)
        verdicts.append((f"warm chat / that with 1 model: {ratio:.3f}, at most {_CHAT_LIMIT}", ratio <= _CHAT_LIMIT))
        for text, kept in verdicts:
            print(f"{target.models:,} models: {text}: {'PASS' if kept else 'FAIL'}")
            passed = passed and kept
    print(f"for scale: {_PEERS}")
    return passed


def _listed(target: Target) -> float:
    """The slower of the first and the usual listing."""
    return max(median(target.first["/models"]), median(target.listings["/models"]))


if __name__ == "__main__":
    main(benchmark)
