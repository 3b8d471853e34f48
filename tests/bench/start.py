"""``make bench-start``: how long from the exec of ``dmr serve`` to its first answer, against ``python -c pass``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.processes import main, median
from tests.bench.service import start_seconds

_ROUNDS = 7
_LIMIT = 30.0


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    nothing, start = [], []
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        root = Path(scratch)
        start_seconds(root)  # makes the store, and compiles what was not compiled before
        for _ in range(_ROUNDS):
            nothing.append(_nothing())
            start.append(start_seconds(root))
    base, took = median(nothing), median(start)
    ratio = took / base
    print(f"medians of {_ROUNDS} interleaved runs")
    print(f"  python -c pass               {base * 1000:7.1f} ms")
    print(f"  dmr serve until its first 200 {took * 1000:6.1f} ms")
    print(f"ratio {ratio:.1f}, at most {_LIMIT:g}: {'PASS' if ratio <= _LIMIT else 'FAIL'}")
    return ratio <= _LIMIT


def _nothing() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(benchmark)
