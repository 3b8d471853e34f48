"""Bars for work that is counted in shares. Imports rich, so only a command that shows some imports this."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

__all__ = ["ShareBars"]


class ShareBars:
    """One bar for each thing that is done, on stderr; where nobody knows how far it is, the bar only moves."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        self._progress = Progress(*columns, console=console or Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._progress.stop()

    def tell(self, what: str, share: float | None) -> None:
        """It does ``what``, and so much of it is done; what it did before is over."""
        if what not in self._tasks:
            self._finish()
            self._tasks[what] = self._progress.add_task(what, total=None)
        if share is not None:
            self._progress.update(self._tasks[what], total=1.0, completed=share)

    def raw(self, line: str) -> None:
        """Nothing."""

    def _finish(self) -> None:
        for task in self._tasks.values():
            self._progress.update(task, total=1.0, completed=1.0)
