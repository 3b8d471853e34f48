"""What an engine's document says: a chunk of a stream, or a whole answer, of chat, of completions, or of infill. Pure.

Nothing of an engine's answer is trusted to have the form it should: what has not is passed over.
"""

from __future__ import annotations

from typing import Any

import attrs

from dmr_adapters.http.responses.upstream import error_of

__all__ = ["Piece", "Usage", "error_in", "piece_of", "usage_of"]

Json = Any


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens of the prompt and of the answer, and the milliseconds each took, as far as the engine tells."""

    prompt: int | None = None
    answer: int | None = None
    prompt_ms: float | None = None
    answer_ms: float | None = None


@attrs.frozen(kw_only=True)
class Piece:
    """A part of an answer. ``calls`` are fragments of calls, ``reason`` is why the answer ends, if it does."""

    text: str = ""
    thinking: str = ""
    calls: tuple[dict[str, Json], ...] = ()
    logprobs: tuple[dict[str, Json], ...] = ()
    reason: str | None = None


def piece_of(document: Json) -> Piece:
    """The part of the answer in a document."""
    value = _object(document)
    if "choices" not in value:
        return Piece(text=_text(value.get("content")), logprobs=_infill_logprobs(value), reason=_infill_reason(value))
    choice = _object(next(iter(_list(value.get("choices"))), None))
    said = _object(choice.get("delta") or choice.get("message"))
    reason = choice.get("finish_reason")
    calls = [one for one in _list(said.get("tool_calls")) if isinstance(one, dict)]
    if "message" in choice:
        calls = [{**one, "index": number} for number, one in enumerate(calls)]
    return Piece(
        text=_text(said.get("content")) or _text(choice.get("text")),
        thinking=_text(said.get("reasoning_content")) or _text(said.get("reasoning")),
        calls=tuple(calls),
        logprobs=tuple(map(_logprob, _objects(_object(choice.get("logprobs")).get("content")))),
        reason=reason if isinstance(reason, str) else None,
    )


def usage_of(document: Json) -> Usage | None:
    """What a document tells of tokens and times; ``None`` where it tells nothing."""
    value = _object(document)
    usage, timings = _object(value.get("usage")), _object(value.get("timings"))
    if not usage and not timings:
        return None
    read = [_count(timings.get("prompt_n")), _count(timings.get("cache_n"))]
    return Usage(
        prompt=_first(_count(usage.get("prompt_tokens")), sum(n for n in read if n is not None) if any(read) else None),
        answer=_first(_count(usage.get("completion_tokens")), _count(timings.get("predicted_n"))),
        prompt_ms=_number(timings.get("prompt_ms")),
        answer_ms=_number(timings.get("predicted_ms")),
    )


def error_in(document: Json) -> str | None:
    """The message of an engine that failed in the middle of a stream."""
    found = error_of(document)
    return found[0] if found is not None else None


def _logprob(entry: dict[str, Json]) -> dict[str, Json]:
    """A token and its logarithm of probability, with the other tokens there might have been."""
    made = _token(entry)
    others = _objects(entry.get("top_logprobs"))
    return {**made, "top_logprobs": [_token(other) for other in others]} if others else made


def _token(entry: dict[str, Json]) -> dict[str, Json]:
    made: dict[str, Json] = {"token": _text(entry.get("token")), "logprob": _number(entry.get("logprob")) or 0.0}
    return {**made, "bytes": entry["bytes"]} if isinstance(entry.get("bytes"), list) else made


def _infill_logprobs(value: dict[str, Json]) -> tuple[dict[str, Json], ...]:
    return tuple(map(_logprob, _objects(value.get("completion_probabilities"))))


def _infill_reason(value: dict[str, Json]) -> str | None:
    if value.get("stop") is not True:
        return None
    return "length" if value.get("stop_type") == "limit" else "stop"


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _objects(value: Json) -> list[dict[str, Json]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Json) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one
