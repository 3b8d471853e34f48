"""What a child prints: read as it comes, logged by line, its end kept."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dmr_adapters.process.redaction import redact_secrets

__all__ = ["LineLog", "OutputPump"]

_READ: Final = 8 * 1024
_LINES: Final = 500
"""Lines of one program that are logged in a second; a model's load prints 300 at most."""

_TAIL: Final = 64 * 1024
_LONGEST_LINE: Final = 8 * 1024
_FINAL_READS: Final = 16

_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
# Controls, and the marks with which a line could pretend to be another one when shown.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _clean(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    return _CONTROL.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


class LineLog:
    """Cuts bytes into lines for a logger and keeps the last 64 KiB. Any bytes, any line length.

    A program that prints without end must not keep the loop busy: beyond 500 lines a second they are only counted.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._second = 0.0
        self._budget = _LINES
        self._left_out = 0
        self._tail = bytearray()
        self._cut = False
        self._line = b""
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take what came next."""
        self._keep(data)
        if not self._logger.isEnabledFor(logging.INFO):
            self._line = b""
            return
        self._renew()
        if self._budget <= 0:
            self._leave_out(data)
            return
        *ended, rest = data.split(b"\n")
        for index, piece in enumerate(ended):
            if self._budget <= 0:
                self._leave_out(b"\n".join((*ended[index:], rest)))
                return
            self._end_of_line(piece)
        if self._skipping:
            return
        self._line += rest
        if len(self._line) > _LONGEST_LINE:
            # Logged now rather than at its end, which may never come.
            self._log(self._line[:_LONGEST_LINE] + b" [cut]")
            self._line = b""
            self._skipping = True

    def flush(self) -> None:
        """Log a last line that has no end, and how many there were that were not logged."""
        self._end_of_line(b"")
        self._tell_left_out()

    def _renew(self) -> None:
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._budget = now, _LINES
            self._tell_left_out()

    def _leave_out(self, data: bytes) -> None:
        """Count lines instead of logging them; one that is not complete goes with them."""
        self._left_out += data.count(b"\n")
        self._line, self._skipping = b"", not data.endswith(b"\n")

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._logger.info("[%d lines left out: more than %d in a second]", self._left_out, _LINES)
            self._left_out = 0

    def tail(self) -> str:
        """The end of everything fed, without control characters."""
        raw = bytes(self._tail)
        if self._cut:
            # Half a line could start in the middle of a key and hide it from redaction.
            start = raw.find(b"\n", 0, _LONGEST_LINE)
            if start < 0:  # a line longer than any that is worth keeping: from its next word, or the next line
                start = min((at for at in (raw.find(b" "), raw.find(b"\n")) if at >= 0), default=-1)
            raw = raw[start + 1 :]
        return _clean(raw)

    def _keep(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > 2 * _TAIL:
            del self._tail[:-_TAIL]
            self._cut = True

    def _end_of_line(self, piece: bytes) -> None:
        line, self._line = self._line + piece, b""
        if self._skipping:
            self._skipping = False
            return
        self._log(line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + b" [cut]")

    def _log(self, line: bytes) -> None:
        # Of a progress bar, which overwrites itself after each \r, only what stays is worth a line.
        text = _clean(line.rstrip(b"\r").rpartition(b"\r")[2]).strip("\n")
        if text and not text.isspace():
            self._budget -= 1
            self._logger.info("%s", redact_secrets(text))


class OutputPump:
    """Reads a pipe whenever it has something, so that the writer never has to wait for us.

    Owns ``descriptor``. Belongs to the running loop.
    """

    def __init__(self, descriptor: int, sink: LineLog) -> None:
        self._descriptor = descriptor
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._open = True
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def drain(self) -> None:
        """Take what is in the pipe now, so that :meth:`LineLog.tail` has a dead child's last words.

        Bounded: somebody else who holds the pipe may write for ever.
        """
        for _ in range(_FINAL_READS):
            if not (self._open and self._read()):
                return

    def close(self) -> None:
        """Stop reading, even if somebody still holds the other end. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._sink.flush()

    def _read(self) -> bool:
        data = b""
        with suppress(OSError):
            try:
                data = os.read(self._descriptor, _READ)
            except (BlockingIOError, InterruptedError):
                return False
        if not data:
            self.close()
            return False
        self._sink.feed(data)
        return True
