"""Processes killed while they change a store; `make test-crash` does many more of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.failpoints import When
from tests.crash.matrix import Failure, Kill, Matrix, open_matrix

_KILLS = int(os.environ.get("DMR_KILLS", "40"))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with open_matrix(tmp_path_factory.mktemp("matrix")) as made:
        yield made


def test_nothing_is_lost_wherever_a_process_is_killed(matrix: Matrix) -> None:
    for kill in matrix.some(seed=20, count=_KILLS):
        matrix.make(kill)
    assert matrix.killed >= _KILLS // 2


def test_every_operation_changes_the_disk_in_ways_that_are_counted(matrix: Matrix) -> None:
    for name, calls in matrix.calls.items():
        assert {"fsync", "unlink"} & set(calls), name
    assert {"pwrite", "write", "rename", "link", "ftruncate", "fallocate"} <= set().union(*matrix.calls.values())


def test_a_lost_blob_is_noticed(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment itself can fail: here somebody deletes a blob behind its back."""
    run = matrix.victims.run

    def running(*victims: object) -> object:
        outcomes = run(*victims)  # type: ignore[arg-type]
        blobs: Path = victims[0].root / "blobs" / "sha256"  # type: ignore[attr-defined]
        max(blobs.iterdir(), key=lambda path: path.stat().st_size).unlink()
        return outcomes

    monkeypatch.setattr(matrix.victims, "run", running)
    with pytest.raises(Failure, match=r"is missing"):
        matrix.make(Kill(scenario="tag", at=3, when=When.BEFORE))
