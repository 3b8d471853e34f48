"""What may reach a terminal: text from the service must not be able to drive it."""

from __future__ import annotations

import sys
from typing import Final, TextIO

__all__ = ["ControlFilter", "clean", "is_terminal", "write"]

_ESC: Final = "\x1b"
_CSI: Final = "\x9b"
_STRINGS: Final = "PX]^_"  # after ESC: device control, start of string, system command, privacy, application
_STRINGS_C1: Final = "\x90\x98\x9d\x9e\x9f"
_KEPT: Final = "\n\t"


class ControlFilter:
    """Takes control sequences out of a stream of text, also where a sequence spans two pieces."""

    def __init__(self) -> None:
        self._state = "text"

    def feed(self, text: str) -> str:
        """The part of ``text`` that is safe to print."""
        if self._state == "text" and text.isprintable():
            return text
        return "".join(character for character in text if self._passes(character))

    def _passes(self, character: str) -> bool:
        state = self._state
        if state == "string":
            if character in "\x07\x9c":
                self._state = "text"
            elif character == _ESC:
                self._state = "string-escape"
        elif state == "string-escape":
            self._state = "text" if character == "\\" else "string"
        elif character == _ESC:
            self._state = "escape"
        elif state == "escape":
            if character == "[":
                self._state = "csi"
            elif character in _STRINGS:
                self._state = "string"
            elif not " " <= character <= "/":
                self._state = "text"
        elif state == "csi":
            if not " " <= character <= "?":
                self._state = "text"
        elif character == _CSI:
            self._state = "csi"
        elif character in _STRINGS_C1:
            self._state = "string"
        else:
            return character in _KEPT or not (character < " " or "\x7f" <= character <= "\x9f")
        return False


def clean(text: str) -> str:
    """``text`` without control sequences."""
    return ControlFilter().feed(text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person watches ``stream``; ``None`` where the process has no such stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def write(text: str, stream: TextIO | None = None) -> None:
    """Print text that came from elsewhere, by default to stdout, and at once.

    A terminal gets it without control sequences; a file or a pipe gets it as it is.
    """
    target = sys.stdout if stream is None else stream
    target.write(clean(text) if is_terminal(target) else text)
    target.flush()
