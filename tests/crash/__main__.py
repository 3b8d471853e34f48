"""``python -m tests.crash``: kill processes that change a store, and see that nothing is ever lost."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from pathlib import Path

from tests.crash.matrix import Failure, open_matrix


def main() -> int:
    """The program; 1 when a defect was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=1000, metavar="N", help="how many; every failpoint first, then random ones"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random ones")
    parser.add_argument("--only", action="append", metavar="SCENARIO", help="leave the others out; may be repeated")
    parser.add_argument("--random", action="store_true", help="random ones alone")
    parser.add_argument("--go-on", action="store_true", help="count defects instead of stopping at the first")
    parser.add_argument("--directory", type=Path, help="where the stores are made")
    options = parser.parse_args()
    started, done, failures = time.monotonic(), Counter[str](), 0
    with open_matrix(options.directory) as matrix:
        for name, calls in matrix.calls.items():
            print(f"{name}: {len(calls)} failpoints", file=sys.stderr)
        kills = matrix.some(options.seed, options.kills, options.only)
        if not options.random:
            every = list(matrix.every(options.only))
            rest = matrix.some(options.seed, max(0, options.kills - len(every)), options.only)
            kills = itertools.chain(every[: options.kills], rest)
        for kill in kills:
            try:
                matrix.make(kill)
            except Failure as exc:
                failures += 1
                print(f"DEFECT {exc}", file=sys.stderr, flush=True)
                if not options.go_on:
                    break
            done[kill.scenario] += 1
        seconds = time.monotonic() - started
        print(
            f"seed {options.seed}: {done.total()} experiments, {matrix.killed} processes killed, {failures} defects, {seconds:.0f} s;"
            f" a pull fetched at most {max(0, matrix.worst)} bytes twice"
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
