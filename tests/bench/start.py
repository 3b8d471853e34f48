"""``make bench-start``: how long from the exec of ``dmr serve`` to its first answer, against ``python -c pass``."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.processes import Unavailable, free_port, main, median, running
from tests.bench.service import ANSWER_LIMIT, dmr_program, environment, listening

_ROUNDS = 7
_LIMIT = 30.0


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    nothing, start = [], []
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        root = Path(scratch)
        _serve(root)  # makes the store, and compiles what was not compiled before
        for _ in range(_ROUNDS):
            nothing.append(_pass(root))
            start.append(_serve(root))
    base, took = median(nothing), median(start)
    ratio = took / base
    print(f"medians of {_ROUNDS} interleaved runs")
    print(f"  python -c pass           {base * 1000:6.1f} ms")
    print(f"  dmr serve to first 200   {took * 1000:6.1f} ms  ratio {ratio:.1f}, at most {_LIMIT:g}: ", end="")
    print("PASS" if ratio <= _LIMIT else "FAIL")
    return ratio <= _LIMIT


def _pass(root: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], env=environment(root), stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _serve(root: Path) -> float:
    """From the exec of ``dmr serve`` to the end of its first answer: the list of its models, with status 200."""
    port, log = free_port(), root / "serve.log"
    command, variables = [str(dmr_program()), "serve", "--port", str(port)], environment(root)
    began = time.perf_counter()
    with running(command, variables, log) as process:
        while not listening(port):
            if process.poll() is not None:
                raise Unavailable(f"the service did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.001)
        # It listens before it is ready, and answers once it is: from here on nothing is polled.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT)
        try:
            connection.request("GET", "/models")
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        took = time.perf_counter() - began
    if answer.status != 200:
        raise Unavailable(f"GET /models was answered with {answer.status}")
    return took


if __name__ == "__main__":
    main(benchmark)
