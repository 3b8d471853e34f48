"""Every failure of an engine has a code and a status of its own, and stands in docs/errors.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmr_adapters.http.errors import status_of
from dmr_core import errors
from dmr_core.errors import DmrError, EngineExitedError

DOCUMENT = Path(__file__).parents[3] / "docs" / "errors.md"
ROW = re.compile(r"^\| `(?P<code>\w+)` \| (?P<status>\d{3}) \| (?P<what>[^|]+) \| (?P<next>[^|]+) \|$", re.MULTILINE)
OTHERS = (
    errors.BackendNotInstalledError,
    errors.EngineStartTimeoutError,
    errors.EngineBackoffError,
    errors.AcceleratorMissingError,
    errors.ModelCodeError,
)


def _kinds(kind: type[EngineExitedError]) -> Iterator[type[EngineExitedError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__.startswith(f"{errors.__name__}."):
            yield from _kinds(below)


def _example(kind: type[DmrError]) -> DmrError:
    return kind.__new__(kind)


def test_the_document_lists_every_failure_with_its_status() -> None:
    documented = {row["code"]: int(row["status"]) for row in ROW.finditer(DOCUMENT.read_text())}
    kinds: list[type[DmrError]] = [*_kinds(EngineExitedError), *OTHERS]

    assert {kind.code: status_of(_example(kind)) for kind in kinds} == documented


def test_no_two_failures_share_a_code() -> None:
    kinds: list[type[DmrError]] = [*_kinds(EngineExitedError), *OTHERS]
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", list(_kinds(EngineExitedError)))
def test_a_message_is_cause_then_next_step_then_output(kind: type[EngineExitedError]) -> None:
    full = kind("engine", 1, "the tail", cause="a cause", remedy="A step.")
    assert full.message == "a cause. A step.\n\nVerbose output:\nthe tail"
    assert (full.summary, kind("engine", -9).message) == ("a cause", "engine was killed by signal 9")
