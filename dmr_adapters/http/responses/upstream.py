"""Reading what an engine answers to a chat completion: a stream of events, or one document (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from dmr_core.errors import UpstreamError

__all__ = ["DONE", "ChunkReader", "chunk_of", "error_of"]

DONE: Final = object()
"""What stands for the ``[DONE]`` at the end of a stream."""

_MAX_EVENT: Final = 8 * 1024 * 1024
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_decode: Final = msgspec.json.Decoder().decode


class ChunkReader:
    """Gives the documents of a stream of events, however its bytes are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, content: bytes) -> list[object]:
        """The documents that are complete now; :data:`DONE` for the end.

        Raises:
            UpstreamError: an event is longer than 8 MiB, or no JSON.
        """
        content = self._rest + content
        # A CR at the very end may be half of a line's end.
        held = content[-1:] if content.endswith(b"\r") else b""
        lines = _LINE_END.split(content[: len(content) - len(held)])
        self._rest = lines.pop() + held
        found = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(self._event())
        if len(self._rest) + sum(map(len, self._data)) > _MAX_EVENT:
            raise UpstreamError(f"the engine sent an event of more than {_MAX_EVENT} bytes")
        return found

    def _event(self) -> object:
        data, self._data = b"\n".join(self._data), []
        return DONE if data.strip() == b"[DONE]" else parse(data)


def parse(content: bytes) -> object:
    """A document from an engine.

    Raises:
        UpstreamError: it is no JSON.
    """
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamError(f"the engine's answer is not JSON: {exc}") from exc


def chunk_of(content: bytes) -> object:
    """A whole completion as the one chunk of a stream.

    Raises:
        UpstreamError: it is no JSON.
    """
    completion = parse(content)
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(completion, dict) or not isinstance(choices, list) or not choices:
        return completion
    first = choices[0]
    if not isinstance(first, dict) or not isinstance(first.get("message"), dict):
        return completion
    delta = dict(first["message"])
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [
            {**call, "index": number} if isinstance(call, dict) else call for number, call in enumerate(calls)
        ]
    return {**completion, "choices": [{**first, "index": 0, "delta": delta}]}


def error_of(document: object) -> tuple[str, dict[str, Any]] | None:
    """The message of an error document and its other fields; ``None`` if it is none."""
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str):
        return error, {}
    if not isinstance(error, dict):
        return None
    message = error.get("message")
    return (message if isinstance(message, str) and message else "the engine failed"), error
