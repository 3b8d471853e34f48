"""Progress bars on a terminal. Imports rich, so only a command that shows some imports this."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from dmr_cli.client.reporters import SilentReporter
from dmr_cli.client.terminal import clean

__all__ = ["BarReporter"]


class BarReporter(SilentReporter):
    """One bar for each part, on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console or Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._progress.console.print(Text(clean(text)))

    def layer(self, name: str, current: int, total: int, whole: int, verb: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task("Waiting", total=total or None, name=name)
        if total and current >= total:
            state = {"Uploading": "Push complete", "Reading": "Read"}.get(verb, "Pull complete")
        else:
            state = verb if current else "Waiting"
        self._progress.update(self._tasks[name], completed=current, description=f"{state:<13}")
