"""How progress is shown: not at all, as JSON, or as a few lines. Bars on a terminal are in `bars`."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Protocol, Self

from dmr_cli.client.render import size
from dmr_cli.client.terminal import write

__all__ = ["JsonReporter", "PlainReporter", "Reporter", "SilentReporter"]

_STEPS: Final = 10
_BLIND_STEP: Final = 100_000_000


class Reporter(Protocol):
    """Shows progress; a context manager around one transfer, all its attempts included."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def raw(self, line: str) -> None:
        """Every line of the stream, as JSON."""

    def note(self, text: str) -> None:
        """A sentence for people."""

    def layer(self, name: str, current: int, total: int, whole: int, verb: str) -> None:
        """``current`` of the ``total`` bytes of one part; all parts together have ``whole`` bytes, if known."""


class SilentReporter:
    """Shows nothing; the base of those that show something."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def raw(self, line: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def layer(self, name: str, current: int, total: int, whole: int, verb: str) -> None:
        """Nothing."""


class JsonReporter(SilentReporter):
    """Hands the lines on to whatever reads our stdout."""

    def raw(self, line: str) -> None:
        write(line + "\n")


class PlainReporter(SilentReporter):
    """Lines on stderr for logs and pipes: one for each tenth of the way, not one for each event."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, int]] = {}
        self._shown = 0

    def note(self, text: str) -> None:
        write(text + "\n", sys.stderr)

    def layer(self, name: str, current: int, total: int, whole: int, verb: str) -> None:
        self._parts[name] = (current, total)
        done = sum(part[0] for part in self._parts.values())
        known = max(whole, sum(part[1] for part in self._parts.values()))
        step = done * _STEPS // known if known else done // _BLIND_STEP
        if step <= self._shown:
            return
        self._shown = step
        past = {"Uploading": "Uploaded", "Reading": "Read"}.get(verb, "Downloaded")
        self.note(f"{past} {size(done)}" + (f" of {size(known)}" if known else ""))
