"""Clearing up after daemons that were killed.

A parent-death signal reaches a daemon's children, not their children, and macOS has none. Whatever
outlived its daemon still holds a GPU, so the next daemon to start ends it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Final

from dmr_adapters.process import process_table
from dmr_adapters.process.process_table import Quarry
from dmr_adapters.process.runtime_directory import LOCK_NAME, ChildRecord, read_records, try_lock

__all__ = ["sweep"]

_log: Final = logging.getLogger(__name__)
_DIRECTORY: Final = re.compile(r"[0-9a-f]{8}")  # what RuntimeDirectory makes; nothing else is ours to remove
_PATIENCE: Final = 5.0


def sweep(base: Path) -> None:
    """Kill what dead daemons left running, and remove their directories.

    Call it with ``base`` locked. Blocks for as long as the killed take to disappear, at most five
    seconds per daemon; a directory whose processes would not die is left for the next sweep.
    """
    for directory in sorted(base.iterdir()):
        if not _DIRECTORY.fullmatch(directory.name) or directory.is_symlink() or not directory.is_dir():
            continue
        try:
            _sweep_one(directory)
        except OSError as exc:
            _log.warning("cannot clear the runtime directory of a dead daemon: %s", exc)


def _sweep_one(directory: Path) -> None:
    lock = try_lock(directory / LOCK_NAME)
    if lock is None:  # its daemon lives
        return
    try:
        survived = [record for record in read_records(directory) if not _end(record)]
        if not survived:
            shutil.rmtree(directory)
    finally:
        os.close(lock)


def _end(record: ChildRecord) -> bool:
    if record.boot_id != process_table.boot_id():
        return True  # nothing survives a reboot
    started = record.start_time or 0
    leader = (record.pid, started) if record.pid and started else None
    quarry = Quarry(tokens=frozenset({record.token}), since=started, leader=leader)
    deadline = time.monotonic() + _PATIENCE
    pause = 0.001
    first = True
    while found := process_table.find(quarry):
        if first:
            _log.warning("killing %d processes that outlived their daemon: %s", len(found), found)
            first = False
        if time.monotonic() > deadline:
            _log.error("processes %s of a dead daemon do not die", found)
            return False
        process_table.kill(found, quarry)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True
