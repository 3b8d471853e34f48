"""Where the lines of a conversation come from: a person with line editing and history, or a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dmr_cli.client.terminal import is_terminal

__all__ = ["Keyboard", "history_file"]

_HISTORY_LENGTH: Final = 1000


def history_file() -> Path:
    """Where what was typed is kept between conversations."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "dmr" / "history"


class Keyboard:
    """Reads lines from stdin; a context manager, because the history is written at the end.

    ``DOCKER_MODEL_NOHISTORY`` leaves the history file alone, altogether.
    """

    def __init__(self) -> None:
        self.interactive = is_terminal(sys.stdin)
        self._editing = self.interactive and is_terminal(sys.stdout)
        self._keep = self._editing and not os.environ.get("DOCKER_MODEL_NOHISTORY")

    def __enter__(self) -> Self:
        if self._editing:
            import readline  # noqa: PLC0415 - gives input() its line editing

            readline.set_history_length(_HISTORY_LENGTH)
            if self._keep:
                self._load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keep:
            self._save()

    def line(self, prompt: str) -> str:
        """The next line without its end.

        Raises:
            EOFError: there is none.
        """
        if self._editing:
            return input(prompt)
        if self.interactive:  # stdout goes elsewhere, and must hold the answers alone
            print(prompt, end="", file=sys.stderr, flush=True)
        text = sys.stdin.readline()
        if not text:
            raise EOFError
        return text.removesuffix("\n").removesuffix("\r")

    def _load(self) -> None:
        import readline  # noqa: PLC0415 - as above

        try:
            readline.read_history_file(history_file())
        except OSError:
            return  # none yet, or none that we may read: a conversation needs none

    def _save(self) -> None:
        import readline  # noqa: PLC0415 - as above

        path = history_file()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made by us first, so that no moment passes in which others could read it.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            readline.write_history_file(path)
        except OSError as error:
            print(f"Warning: the history was not saved: {error}", file=sys.stderr)
