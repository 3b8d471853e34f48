"""``make bench-cli``: how long ``dmr list`` and ``dmr --help`` take, against ``python -c pass``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.processes import Unavailable, main, median
from tests.bench.service import MODEL, dmr_program, environment, serving

_ROUNDS = 20
_LIMIT = 5.5


def benchmark() -> bool:
    """Measure and print; whether the limit is kept."""
    dmr = str(dmr_program())
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "dmr list": [dmr, "list"],
        "dmr --help": [dmr, "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        root = Path(scratch)
        with serving(root) as service:
            variables = environment(root, {"MODEL_RUNNER_HOST": service.url})
            for argv in commands.values():  # compiles what was not compiled before
                _run(argv, variables)
            if MODEL not in _run(commands["dmr list"], variables)[1]:
                raise Unavailable(f"`dmr list` does not show {MODEL}")
            for _ in range(_ROUNDS):
                for name, argv in commands.items():
                    taken[name].append(_run(argv, variables)[0])
    print(f"medians of {_ROUNDS} interleaved runs, {service.url} serving one model")
    base = median(taken["python -c pass"])
    passed = True
    for name, times in taken.items():
        ratio = median(times) / base
        passed = passed and ratio <= _LIMIT
        verdict = "" if argv_is_base(name) else f"  ratio {ratio:.2f}, at most {_LIMIT}: {_word(ratio)}"
        print(f"  {name:15} {median(times) * 1000:6.1f} ms{verdict}")
    return passed


def argv_is_base(name: str) -> bool:
    return name == "python -c pass"


def _word(ratio: float) -> str:
    return "PASS" if ratio <= _LIMIT else "FAIL"


def _run(argv: Sequence[str], variables: Mapping[str, str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(argv, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} exited with {done.returncode}:\n{done.stderr}")
    return took, done.stdout


if __name__ == "__main__":
    main(benchmark)
