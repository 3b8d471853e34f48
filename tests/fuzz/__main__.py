"""``python -m tests.fuzz TARGET --seconds 600``: let atheris look for an input that a parser cannot take.

A target lets only the errors through that its parser documents, so every exception that ends a run is a defect. Memory is
bounded: an input that needs more than ``--memory`` MiB is one too. Inputs that reach new code are kept where ``--corpus``
says; one that ends a run is left in the temporary directory, under the name that the last lines tell.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import mutation_of
from tests.fuzz.samples import samples
from tests.fuzz.scratch import MEMORY, SCRATCH

_HERE = Path(__file__).parent
TARGETS = ("gguf", "safetensors", "dduf", "manifest", "config", "index", "archive")
_TEXTUAL = ("safetensors", "manifest", "config", "index")
_BASE = 1024  # MiB of address space that the interpreter, atheris and its tables take before the first input
_MAX_INPUT = 32 * 1024
_SLOW = 10  # seconds for one input


def main() -> None:
    """Fuzz; exits with 0 when nothing was found, 2 when atheris is not there, something else otherwise."""
    options = _options()
    if options.list:
        print(*TARGETS)
        return
    try:
        atheris = importlib.import_module("atheris")
    except ImportError as error:
        print(f"fuzzing needs atheris ({error}): pip install -r requirements-dev.txt", file=sys.stderr)
        sys.exit(2)
    if SCRATCH in os.environ:
        _fuzz(atheris, options)
    sys.exit(_fuzz_in_child(options))


def _fuzz_in_child(options: argparse.Namespace) -> int:
    """Fuzz in a process of its own, which may die of what it finds, and clear away behind it."""
    with tempfile.TemporaryDirectory(prefix="dmr-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        corpus = Path(options.corpus) if options.corpus else Path(scratch) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(samples(options.target)):
            (corpus / f"sample-{number}").write_bytes(sample)
        command = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:], "--corpus", str(corpus)]
        return subprocess.run(command, env={**os.environ, SCRATCH: scratch}, check=False).returncode


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=TARGETS, default=TARGETS[0], help="what to feed")
    parser.add_argument("--seconds", type=int, default=600, help="how long (%(default)s)")
    parser.add_argument("--memory", type=int, default=512, help="MiB that an input may take (%(default)s)")
    parser.add_argument("--corpus", metavar="DIR", help="where inputs that reach new code are kept")
    parser.add_argument("--list", action="store_true", help="print the targets and exit")
    return parser.parse_args()


def _fuzz(atheris: Any, options: argparse.Namespace) -> None:
    with atheris.instrument_imports(include=["dmr_core", "dmr_adapters"]):
        target = importlib.import_module(f"tests.fuzz.{options.target}").target
    limit = (_BASE + options.memory) * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    arguments = [
        f"-max_total_time={options.seconds}",
        f"-rss_limit_mb={options.memory}",
        f"-max_len={_MAX_INPUT}",
        f"-timeout={_SLOW}",
        f"-artifact_prefix={Path(tempfile.gettempdir()) / options.target}-",
        "-print_final_stats=1",
    ]
    if options.target in _TEXTUAL:
        arguments.append(f"-dict={_HERE / 'json.dict'}")
    kept = [str(corpus)] if (corpus := _HERE / "corpus" / options.target).is_dir() else []
    mutate = mutation_of(options.target)

    def mutated(data: bytes, limit: int, seed: int) -> bytes:
        draw = random.Random(seed)
        changed = mutate(data, draw) if draw.random() < 0.5 else atheris.Mutate(data, limit)
        return changed[:limit]

    atheris.Setup([sys.argv[0], *arguments, options.corpus, *kept], target, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
