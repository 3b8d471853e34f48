"""The stream that a pull, a push or a load answers with, read to its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Final

from dmr_cli.client.errors import ClientError, NotFoundError, TransferError
from dmr_cli.client.reporters import JsonReporter, PlainReporter, Reporter, SilentReporter
from dmr_cli.client.terminal import clean, is_terminal

__all__ = ["follow", "reporter_for"]

_GARBAGE_LIMIT: Final = 4096


def reporter_for(*, quiet: bool = False, as_json: bool = False) -> Reporter:
    """The reporter that suits the flags and whoever reads stderr."""
    if as_json:
        return JsonReporter()
    if quiet:
        return SilentReporter()
    if is_terminal(sys.stderr):
        from dmr_cli.client.bars import BarReporter  # noqa: PLC0415 - rich is slow to import

        return BarReporter()
    return PlainReporter()


def follow(lines: Iterable[bytes], reporter: Reporter) -> str:
    """Read a progress stream to its end; the message of its success.

    Lines may be HTML-escaped JSON, which is what services send to clients of old.

    Raises:
        TransferError: the stream says that the transfer failed.
        NotFoundError: it says that there is no such model.
        ClientError: it holds something else, or ends without saying how things went.
    """
    success: str | None = None
    garbage: list[str] = []
    for raw in lines:
        text = raw.decode("utf-8", "replace").strip()
        if not text:
            continue
        event = _event(text)
        if event is None:
            garbage.append(text)
            continue
        reporter.raw(json.dumps(event, ensure_ascii=False))
        kind, message = event.get("type"), str(event.get("message") or "")
        if kind == "error":
            _fail(message, event.get("code"))
        elif kind == "success":
            success = message
        elif kind == "warning":
            reporter.note(f"Warning: {message}")
        else:
            _show(event, message, reporter)
    if success is not None:
        return success
    if garbage:
        shown = "\n".join(garbage)
        if len(shown) > _GARBAGE_LIMIT:
            shown = shown[:_GARBAGE_LIMIT] + "\n...[truncated]"
        raise ClientError(f"unexpected response from server (not valid progress data): {shown}")
    raise ClientError("the service ended the transfer without saying how it went")


def _event(text: str) -> dict[str, Any] | None:
    for attempt in (False, True):
        if attempt:
            if "&" not in text:
                return None
            from html import unescape  # noqa: PLC0415 - our own service does not escape

            text = unescape(text)
        try:
            event = json.loads(text)
        except ValueError:
            continue
        return event if isinstance(event, dict) and "type" in event else None
    return None


def _fail(message: str, code: object) -> None:
    text = message.removeprefix("Error: ").strip() or "the transfer failed"
    raise NotFoundError(text) if code == "model_not_found" else TransferError(text)


def _show(event: dict[str, Any], message: str, reporter: Reporter) -> None:
    layer = event.get("layer")
    name = layer.get("id") if isinstance(layer, dict) else None
    if isinstance(layer, dict) and name:
        verb = "Uploading" if event.get("mode") == "push" else "Downloading"
        label = clean(str(name)).removeprefix("sha256:")[:12]
        reporter.layer(label, _count(layer.get("current")), _count(layer.get("size")), _count(event.get("total")), verb)
    elif message:
        reporter.note(message)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
