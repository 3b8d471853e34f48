"""Embeddings as an engine gives them, and as Ollama's clients want them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from dmr_core.errors import UpstreamError

__all__ = ["Vectors", "encoded", "limit_in", "read_vectors", "shortened"]

_LIMITS: Final = (
    re.compile(r"current batch size: (\d{1,9})"),
    re.compile(r"available context size \((\d{1,9}) tokens\)"),
    re.compile(r"maximum context length is (\d{1,9}) tokens"),
)


class _Entry(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class Vectors(msgspec.Struct):
    """An answer of ``/v1/embeddings`` (OpenAI, "The embedding object")."""

    data: list[_Entry]
    usage: _Usage = msgspec.field(default_factory=_Usage)

    def all(self) -> list[list[float]]:
        """One vector for each input, in their order."""
        return [entry.embedding for entry in sorted(self.data, key=lambda entry: entry.index)]


def read_vectors(content: bytes) -> Vectors:
    """Read an engine's answer.

    Raises:
        UpstreamError: it is none.
    """
    try:
        return msgspec.json.decode(content, type=Vectors)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamError(f"the engine's answer has no embeddings: {exc}") from exc


def shortened(vector: Sequence[float], dimensions: int) -> list[float]:
    """The first ``dimensions`` of a vector, of length one again, as Matryoshka embeddings are cut."""
    cut = list(vector[:dimensions])
    length = math.sqrt(sum(value * value for value in cut))
    return [value / length for value in cut] if length > 0 and math.isfinite(length) else cut


def limit_in(message: str) -> int | None:
    """The most tokens an engine takes at once, read off its refusal of more; ``None`` for a refusal of another kind."""
    for pattern in _LIMITS:
        if (found := pattern.search(message)) is not None:
            return int(found[1]) or None
    return None


def encoded(document: dict[str, Any]) -> bytes:
    """As JSON, with the newline that Ollama's server writes."""
    return orjson.dumps(document) + b"\n"
