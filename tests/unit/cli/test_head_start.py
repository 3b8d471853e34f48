"""Hashing ahead: right, or nothing at all."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from dmr_cli.client.head_start import head_start

CONTENT = os.urandom(40 * 1024 * 1024 + 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_hashed_once_and_its_progress_told(source: Path) -> None:
    told: list[int] = []
    with head_start(source) as ahead:
        assert ahead is not None
        digest = ahead.digest(source.stat(), told.append, threading.Event())

    assert digest == hashlib.sha256(CONTENT).hexdigest()
    assert told == sorted(told)


def test_another_file_or_another_state_of_it_has_no_digest(source: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.gguf"
    same.write_bytes(CONTENT)
    with head_start(source) as ahead:
        assert ahead is not None
        assert ahead.digest(same.stat(), lambda _: None, threading.Event()) is None
        os.utime(source, (1, 1))
        assert ahead.digest(source.stat(), lambda _: None, threading.Event()) is None


def test_what_is_not_wanted_any_more_is_not_waited_for(source: Path) -> None:
    abandoned = threading.Event()
    abandoned.set()
    with head_start(source) as ahead:
        assert ahead is not None
        assert ahead.digest(source.stat(), lambda _: None, abandoned) is None

    assert not any(thread.name == "dmr-head-start" for thread in threading.enumerate())


def test_stopping_early_leaves_no_thread_and_no_digest(tmp_path: Path) -> None:
    endless = tmp_path / "sparse.gguf"
    with endless.open("wb") as file:
        file.truncate(1 << 36)
    with head_start(endless) as ahead:
        assert ahead is not None

    assert not any(thread.name == "dmr-head-start" for thread in threading.enumerate())
    assert ahead.digest(endless.stat(), lambda _: None, threading.Event()) is None


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "nul"])
def test_what_cannot_be_read_is_left_to_whoever_reads_it_next(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "nul":
        path = tmp_path / "a\0b"
    with head_start(path) as ahead:
        assert ahead is not None
        assert ahead.digest(tmp_path.stat(), lambda _: None, threading.Event()) is None


def test_nothing_to_hash_is_nothing_to_wait_for() -> None:
    with head_start(None) as ahead:
        assert ahead is None
