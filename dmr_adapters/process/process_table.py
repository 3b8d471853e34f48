"""Finding and killing processes by what Linux says about them.

A pid alone names nobody: it may have been given to another process since it was written down. So a
process is recognised by its start time and by the marker in its environment, and signalled through
a pidfd, which cannot change hands between the check and the signal.

macOS has no ``/proc``. There ``ps`` shows the environment of one's own processes, so the marker is
found, but start times and sessions are not looked at, and a signal goes to a bare pid.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.process.environment import MARKER

__all__ = ["Quarry", "boot_id", "cpu_seconds", "find", "kill", "start_time"]

_MARKER: Final = re.compile(rb"(?:^|\x00)" + MARKER.encode() + rb"=([^\x00]*)")

_HAS_PROC: Final = sys.platform == "linux"


@attrs.frozen
class Quarry:
    """The processes to look for: those with one of ``tokens``, those of ``session``, and one leader.

    ``since`` is a start time that none of them can precede. ``leader`` is a pid with its start time.
    ``session`` may be given only while the number cannot have been reused.
    """

    tokens: frozenset[str]
    since: int
    session: int | None = None
    leader: tuple[int, int] | None = None


@attrs.frozen
class _Stat:
    state: bytes
    session: int
    started: int
    ticks: int
    """CPU time, with that of its children that ended."""


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` if there is no such process."""
    stat = _stat(pid)
    return stat.started if stat else None


def boot_id() -> str:
    """What distinguishes this boot from earlier ones, whose pids and start times mean nothing now."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def find(quarry: Quarry) -> list[int]:
    """Living processes that match. Zombies are not: they hold nothing but their number."""
    if not _HAS_PROC:
        return _find_with_ps(quarry)
    return [pid for pid in _pids() if _matches(pid, quarry)]


def cpu_seconds(quarry: Quarry) -> float | None:
    """CPU time that the processes that match have used; ``None`` where there are none, or no ``/proc``."""
    if not _HAS_PROC:
        return None
    found = [stat for pid in find(quarry) if (stat := _stat(pid)) is not None]
    return sum(stat.ticks for stat in found) / os.sysconf("SC_CLK_TCK") if found else None


def kill(pids: Collection[int], quarry: Quarry) -> None:
    """SIGKILL those of ``pids`` that still match."""
    for pid in pids:
        with suppress(OSError):
            if _HAS_PROC:
                _kill(pid, quarry)
            else:
                os.kill(pid, signal.SIGKILL)


def _kill(pid: int, quarry: Quarry) -> None:
    if not hasattr(os, "pidfd_open"):
        if _matches(pid, quarry):
            os.kill(pid, signal.SIGKILL)
        return
    descriptor = os.pidfd_open(pid)
    try:
        if _matches(pid, quarry):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def _find_with_ps(quarry: Quarry) -> list[int]:
    try:
        listing = subprocess.run(["ps", "-axEww", "-o", "pid=,command="], capture_output=True, check=False).stdout
    except OSError:
        return []
    markers = [f"{MARKER}={token}".encode() for token in quarry.tokens]
    lines = (line.split(None, 1) for line in listing.splitlines())
    return [int(line[0]) for line in lines if len(line) == 2 and any(marker in line[1] for marker in markers)]


def _pids() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def _matches(pid: int, quarry: Quarry) -> bool:
    stat = _stat(pid)
    if stat is None or stat.state in b"ZX" or stat.started < quarry.since or pid == os.getpid():
        return False
    if stat.session == quarry.session or (pid, stat.started) == quarry.leader:
        return True
    # Last, because reading the memory of a busy process can take long: most have been told apart.
    return _token(pid) in quarry.tokens


def _stat(pid: int) -> _Stat | None:
    try:
        raw = _read(f"/proc/{pid}/stat")
        # The name, in parentheses, may hold anything, parentheses too.
        fields = raw[raw.rindex(b")") + 2 :].split()
        return _Stat(
            state=fields[0], session=int(fields[3]), started=int(fields[19]), ticks=sum(map(int, fields[11:15]))
        )
    except (OSError, ValueError, IndexError):
        return None


def _token(pid: int) -> str | None:
    try:
        found = _MARKER.search(_read(f"/proc/{pid}/environ"))
    except OSError:  # gone, or not ours to read and so not ours to kill
        return None
    return found[1].decode("utf-8", "replace") if found else None


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
