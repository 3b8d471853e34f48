"""Ports for engines that cannot listen on a unix socket, and who really listens there.

Format of ``/proc/net/tcp``: ``Documentation/networking/proc_net_tcp.rst``; of a socket's link in ``/proc/PID/fd``:
``socket:[inode]`` (``proc(5)``).
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from typing import Final

__all__ = ["PortSource", "holds_listener"]

_LISTENING: Final = "0A"
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_REMEMBERED: Final = 64


class PortSource:
    """Hands out loopback ports that nobody uses, never one it gave lately: its engine may not listen yet."""

    def __init__(self) -> None:
        self._given: deque[int] = deque(maxlen=_REMEMBERED)

    def take(self) -> int:
        """A port.

        Raises:
            OSError: there is none.
        """
        held = []
        try:
            while True:
                probe = socket.socket()
                held.append(probe)  # until we are done, so that the next one is another one
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
                if port not in self._given:
                    self._given.append(port)
                    return port
        finally:
            for probe in held:
                probe.close()


def holds_listener(pids: Collection[int], port: int) -> bool | None:
    """Whether one of ``pids`` has every socket that listens on ``port``; ``None`` where the system does not tell."""
    inodes = _listeners(port)
    if inodes is None:
        return None
    held = {link for pid in pids for link in _sockets(pid)}
    return bool(inodes) and all(f"socket:[{inode}]" in held for inode in inodes)


def _listeners(port: int) -> set[str] | None:
    inodes = set()
    seen = False
    for table in _TABLES:
        with suppress(OSError), open(table, encoding="ascii") as file:  # noqa: PTH123 - no Path is needed
            next(file, None)
            seen = True
            for line in file:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    return inodes if seen else None


def _sockets(pid: int) -> set[str]:
    directory = f"/proc/{pid}/fd"
    links = set()
    with suppress(OSError):  # gone, or no longer ours
        for name in os.listdir(directory):  # noqa: PTH208 - no Path is needed
            with suppress(OSError):
                links.add(os.readlink(f"{directory}/{name}"))  # noqa: PTH115 - as above
    return links
