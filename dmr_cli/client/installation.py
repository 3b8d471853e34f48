"""Watching an engine being installed: the stream of progress, and how it is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from dmr_cli.client.errors import ClientError, ConflictError, TransferError
from dmr_cli.client.terminal import clean, is_terminal, write

__all__ = ["Watcher", "follow", "watcher_for"]

_STEP: Final = 10


class Watcher(Protocol):
    """Shows how far an installation is; a context manager around one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def tell(self, what: str, share: float | None) -> None:
        """It does ``what``, and so much of it is done (0 to 1) if that is known."""

    def raw(self, line: str) -> None:
        """Every line of the stream, as JSON."""


class _Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def tell(self, what: str, share: float | None) -> None:
        """Nothing."""

    def raw(self, line: str) -> None:
        """Nothing."""


class _Json(_Silent):
    """Hands the lines on to whatever reads our stdout."""

    def raw(self, line: str) -> None:
        write(line + "\n")


class _Plain(_Silent):
    """Lines on stderr for logs and pipes: one for each thing that is done, and for each tenth of it."""

    def __init__(self) -> None:
        self._shown: tuple[str, int] | None = None

    def tell(self, what: str, share: float | None) -> None:
        step = -1 if share is None else int(share * 100) // _STEP * _STEP
        if (what, step) != self._shown:
            self._shown = (what, step)
            write(f"{what}\n" if share is None else f"{what}: {step}%\n", sys.stderr)


def watcher_for(*, quiet: bool, as_json: bool) -> Watcher:
    """The watcher that suits the flags and whoever reads stderr."""
    if as_json:
        return _Json()
    if quiet:
        return _Silent()
    if is_terminal(sys.stderr):
        from dmr_cli.client.share_bars import ShareBars  # noqa: PLC0415 - rich is slow to import

        return ShareBars()
    return _Plain()


def follow(lines: Iterable[bytes], watcher: Watcher) -> str:
    """Read a stream of progress to its end; the message of its success.

    Raises:
        TransferError: the stream says that the installation failed.
        ConflictError: something else is being done with that engine.
        ClientError: it ends without saying how things went.
    """
    for raw in lines:
        text = raw.decode("utf-8", "replace").strip()
        if not text:
            continue
        event = _event(text)
        watcher.raw(json.dumps(event, ensure_ascii=False))
        message = str(event.get("message") or "")
        if event.get("type") == "error":
            kind = ConflictError if event.get("code") == "conflict" else TransferError
            raise kind(message.removeprefix("Error: ") or "the installation failed")
        if event.get("type") == "success":
            return message
        share = event.get("share")
        watcher.tell(clean(message), float(share) if isinstance(share, (int, float)) else None)
    raise ClientError("the service ended the installation without saying how it went; see `dmr status`")


def _event(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ClientError(f"unexpected response from the service (not progress data): {text[:4096]}")
    return event
