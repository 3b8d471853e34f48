"""Figures of processes, read from ``/proc``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import attrs

__all__ = [
    "EngineChild",
    "Figures",
    "alive",
    "children",
    "descendants",
    "descriptors",
    "engines",
    "figures",
    "holding",
    "identity",
]


@attrs.frozen
class Figures:
    """One look at a process; memory in KiB."""

    rss: int
    pss: int
    fds: int
    threads: int


@attrs.frozen
class EngineChild:
    """An engine: its process, when that was started (in ticks since boot), and what it serves."""

    pid: int
    start: int
    backend: str
    model: str


def figures(pid: int) -> Figures:
    """Memory, descriptors and threads of a process now.

    Raises:
        OSError: it is gone.
    """
    rolled = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
    status = _fields(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    return Figures(
        rss=int(rolled["Rss"].split()[0]),
        pss=int(rolled["Pss"].split()[0]),
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )


def descriptors(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has open; numbers of sockets and pipes are left out."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        found[target.partition(":[")[0]] += 1
    return found


def identity(pid: int) -> int | None:
    """When a process was started, in ticks since boot; ``None`` when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, start: int) -> bool:
    """Whether the process that was started then still runs."""
    return identity(pid) == start


def children(pid: int) -> list[int]:
    """Who a process started and has not reaped, zombies included."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return [
            int(child)
            for thread in threads
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split()
        ]
    except OSError:
        return []


def descendants(pid: int) -> dict[int, int]:
    """Everything that runs below a process, with its start time."""
    found: dict[int, int] = {}
    left = children(pid)
    while left:
        child = left.pop()
        start = identity(child)
        if start is not None and child not in found:
            found[child] = start
            left += children(child)
    return found


def engines(pid: int) -> list[EngineChild]:
    """The engines that a daemon started and that still run."""
    found = []
    for child in children(pid):
        words, start = _command(child), identity(child)
        if start is not None and "--alias" in words:
            program = next((word for word in words if word.endswith("/llama-server")), "")
            backend = Path(program).parent.name if program else "llama.cpp"
            found.append(EngineChild(child, start, backend, words[words.index("--alias") + 1]))
    return found


def holding(text: str) -> list[int]:
    """Processes, other than this one, that have ``text`` in their command line."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [pid for pid in pids if text in " ".join(_command(pid)) and identity(pid) is not None]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _fields(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
