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
    base = median(taken.pop("python -c pass"))
    print(f"  python -c pass  {base * 1000:6.1f} ms")
    ratios = {name: median(times) / base for name, times in taken.items()}
    for name, ratio in ratios.items():
        verdict = "PASS" if ratio <= _LIMIT else "FAIL"
        print(f"  {name:15} {ratio * base * 1000:6.1f} ms  ratio {ratio:.2f}, at most {_LIMIT:g}: {verdict}")
    return all(ratio <= _LIMIT for ratio in ratios.values())


def _run(argv: Sequence[str], variables: Mapping[str, str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(argv, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} exited with {done.returncode}:\n{done.stderr}")
    return took, done.stdout


if __name__ == "__main__":
    main(benchmark)
