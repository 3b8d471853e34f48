"""What a container prints: taken apart, logged by line, its end kept, and without the secrets it was given."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable
from typing import Final

from dmr_core.domain.redaction import redact_text
from dmr_core.domain.secret import Secret

__all__ = ["ContainerOutput", "hide"]

_HEADER: Final = 8
_MAX_LINE: Final = 8 * 1024
_KEPT: Final = 200
_FRAME: Final = re.compile(rb"[\x00-\x02]\x00\x00\x00")
_CONTROL: Final = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def hide(text: str, secrets: Iterable[Secret | None]) -> str:
    """``text`` without these secrets, and without what looks like one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), "***")
    return redact_text(text)


class ContainerOutput:
    """Takes the engine's stream of a container's output.

    Without a terminal that is frames of a stream's number, three zeros, four bytes of length and as many of text (Engine
    API, "Attach to a container"); with one it is the text alone.
    """

    def __init__(self, logger: logging.Logger, secrets: Iterable[Secret | None]) -> None:
        self._logger = logger
        self._secrets = tuple(secrets)
        self._raw = b""
        self._left = 0
        self._framed: bool | None = None
        self._line = b""
        self._lines: deque[str] = deque(maxlen=_KEPT)

    def feed(self, data: bytes) -> None:
        """Take what came next."""
        self._raw += data
        while self._raw:
            if self._framed is None:
                if len(self._raw) < _HEADER:
                    return
                self._framed = _FRAME.match(self._raw) is not None
            if not self._framed:
                text, self._raw = self._raw, b""
                self._text(text)
            elif self._left:
                text, self._raw = self._raw[: self._left], self._raw[self._left :]
                self._left -= len(text)
                self._text(text)
            elif len(self._raw) < _HEADER:
                return
            else:
                self._left = int.from_bytes(self._raw[4:_HEADER], "big")
                self._raw = self._raw[_HEADER:]

    def end(self) -> None:
        """There is no more."""
        rest, self._raw = (self._raw, b"") if not self._framed else (b"", b"")
        self._text(rest + b"\n")

    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._lines)

    def _text(self, text: bytes) -> None:
        *complete, rest = (self._line + text).split(b"\n")
        for line in complete:
            self._tell(line)
        if len(rest) > _MAX_LINE:
            # In whole, for half a key could not be told to be one; a line of this length holds more than a key.
            self._tell(rest[:_MAX_LINE] + b" [cut]")
            rest = b""
        self._line = rest

    def _tell(self, raw: bytes) -> None:
        # Of a progress bar, which overwrites itself after each \r, only what stays is worth a line.
        line = raw[: _MAX_LINE + 64].decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
        line = hide(_CONTROL.sub("", line), self._secrets).rstrip()
        if line:
            self._lines.append(line)
            self._logger.info("%s", line)
