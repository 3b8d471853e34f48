"""The name of a model in an answer: the one the client used, whatever the engine was started under."""

from __future__ import annotations

import json
import re

__all__ = ["Rename", "renamer"]


class Rename:
    """Puts the name a client used where the engine wrote the one it was started under.

    In JSON text a quote inside a string is escaped, so the pattern cannot match within one.
    """

    def __init__(self, alias: str, name: str) -> None:
        self._pattern = re.compile(rb'"model"\s*:\s*' + re.escape(_json(alias)))
        self._replacement = b'"model":' + _json(name)

    def __call__(self, content: bytes) -> bytes:
        """``content`` with the name replaced. It must not be cut within the member."""
        return self._pattern.sub(lambda _match: self._replacement, content)


def renamer(alias: str, name: str) -> Rename | None:
    """What to do to answers of an engine started as ``alias`` for a client that said ``name``; mostly nothing."""
    return None if alias == name else Rename(alias, name)


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
