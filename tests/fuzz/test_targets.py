"""A sample of what the fuzzer does, on every run of the tests: the corpus, and changes to valid inputs."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import require
from tests.fuzz.__main__ import TARGETS
from tests.fuzz.mutation import mutation_of
from tests.fuzz.samples import samples

_HERE = Path(__file__).parent
_EXAMPLES = {"archive": 200}  # each unpacks files

every_target = pytest.mark.parametrize("name", TARGETS)


def target_of(name: str) -> Callable[[bytes], None]:
    target: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.{name}").target
    return target


@every_target
def test_the_corpus_holds_nothing_that_breaks_a_parser(name: str) -> None:
    target, inputs = target_of(name), sorted((_HERE / "corpus" / name).iterdir())

    assert inputs
    for path in inputs:
        target(path.read_bytes())


@every_target
def test_changed_inputs_are_read_or_refused(name: str) -> None:
    target, mutate = target_of(name), mutation_of(name)

    @given(st.sampled_from(samples(name)), st.integers(0, 2**32), st.integers(0, 4))
    @settings(
        max_examples=_EXAMPLES.get(name, 1000),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    def run(sample: bytes, seed: int, changes: int) -> None:
        draw = random.Random(seed)
        for _ in range(changes):
            sample = mutate(sample, draw)
        target(sample)

    run()


@every_target
@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None, database=None)
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    target_of(name)(data)


def test_the_program_lists_its_targets() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--list"], capture_output=True, text=True, check=True, cwd=_HERE.parents[1]
    )

    assert tuple(done.stdout.split()) == TARGETS


def test_the_program_finds_nothing_in_a_second(tmp_path: Path) -> None:
    require(
        "atheris",
        available=find_spec("atheris") is not None,
        reason="atheris is not installed: it has wheels for Linux on x86-64 only",
    )
    command = [sys.executable, "-m", "tests.fuzz", "manifest", "--seconds", "1", "--corpus", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_HERE.parents[1])

    assert done.returncode == 0, done.stderr[-2000:]
    assert "number_of_executed_units" in done.stderr
    assert (tmp_path / "found" / "sample-0").read_bytes() == samples("manifest")[0]
