"""What comes through a pipe into a command that may not expect anything."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from typing import Final

from dmr_cli.client.terminal import is_terminal

__all__ = ["PATIENCE", "StandardInput"]

PATIENCE: Final = 0.5


class StandardInput:
    """Text on stdin that belongs to a prompt.

    A pipe that stays open and silent, as under cron or CI, must not make the command hang: after
    ``PATIENCE`` seconds, counted from when this was made, it counts as empty. What has begun to
    arrive is read to its end.
    """

    def __init__(self) -> None:
        self._deadline = time.monotonic() + PATIENCE

    @property
    def is_terminal(self) -> bool:
        """Whether a person types there."""
        return is_terminal(sys.stdin)

    def read(self) -> str:
        """Everything, however long it takes."""
        return "" if sys.stdin is None or sys.stdin.closed else sys.stdin.read()

    def read_if_any(self) -> str | None:
        """Everything, or ``None`` when it is a pipe on which nothing came in time."""
        if sys.stdin is None or sys.stdin.closed:
            return ""
        try:
            descriptor = sys.stdin.fileno()
            mode = os.fstat(descriptor).st_mode
        except (OSError, ValueError):  # not a real file: a test's, or an embedder's
            return sys.stdin.read()
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            wait = max(0.0, self._deadline - time.monotonic())
            if not select.select([descriptor], [], [], wait)[0]:
                return None
        return sys.stdin.read()
