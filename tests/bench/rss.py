"""``make bench-rss``: memory of the service after 100,000 requests against after 10,000.

The engine answers at once (``stub_engine.c``); wrk asks from 16 connections, for whole answers and streams in turn, so that
everything a request passes has been through often enough to leak. Memory is what the kernel counts as resident.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

from tests.bench.load import PATH, Load
from tests.bench.processes import Unavailable, main
from tests.bench.programs import build, find
from tests.bench.service import MODEL, ask, serving

_FEW, _MANY = 10_000, 100_000
_LIMIT = 1.05
_CLIENTS = 16
_PIECE = 2.0


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        root = Path(scratch)
        engine = build("stub_engine.c", root / "engine" / "llama-server")
        load = Load(
            wrk=find("wrk", "wrk"),
            sse_client=build("sse_client.c", root / "sse_client"),
            script=root / "request.lua",
            core=min(os.sched_getaffinity(0)),
            model=MODEL,
        )
        with serving(root, {"LLAMA_SERVER_PATH": str(engine.parent)}) as service:
            if ask(service.port, PATH, {"model": MODEL, "messages": []})[0] != 200:
                raise Unavailable("the stub engine does not answer")
            pid = service.process.pid
            few, done = _after(load, service.port, pid, options.few, 0)
            print(f"after {done:7} requests {few / 1e6:6.1f} MB resident")
            many, done = _after(load, service.port, pid, options.many, done)
    ratio = many / few
    print(f"after {done:7} requests {many / 1e6:6.1f} MB resident")
    print(f"ratio {ratio:.3f}, at most {_LIMIT}: {'PASS' if ratio <= _LIMIT else 'FAIL'}")
    return ratio <= _LIMIT


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rss", description=__doc__)
    parser.add_argument("--few", type=int, default=_FEW, help="requests before the first look (%(default)s)")
    parser.add_argument("--many", type=int, default=_MANY, help="requests before the last look (%(default)s)")
    return parser.parse_args()


def _after(load: Load, port: int, pid: int, requests: int, done: int) -> tuple[int, int]:
    """Bytes that are resident once so many requests were answered, and how many it were."""
    while done < requests:
        whole = load.requests(port, _CLIENTS, _PIECE)
        streamed = load.events(port, _CLIENTS, _PIECE)
        if whole.errors or streamed.errors:
            raise Unavailable(f"{whole.errors + streamed.errors} requests failed")
        if not whole.answered:
            raise Unavailable("nothing was answered")
        done += whole.answered + streamed.answers
    return _resident(pid), done


def _resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise Unavailable(f"the kernel does not say what process {pid} has")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(benchmark)
