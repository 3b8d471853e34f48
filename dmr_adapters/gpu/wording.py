"""Words of drivers and tools, made fit for a table, a log line, or a terminal."""

from __future__ import annotations

from typing import Final

__all__ = ["plain"]

_LONGEST: Final = 200


def plain(found: object) -> str:
    """One printable line, shortened; empty for what is no text. A tool's escape sequences do not reach a terminal."""
    if not isinstance(found, str):
        return ""
    text = " ".join(found[: 8 * _LONGEST].split())
    return "".join(letter for letter in text if letter.isprintable() and letter != "\ufffd")[:_LONGEST].strip()
