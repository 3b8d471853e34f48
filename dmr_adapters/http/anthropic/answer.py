"""From a chat completion to a message of Anthropic's. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import orjson

from dmr_core.errors import UpstreamError

__all__ = ["message_id", "stop_reason", "tool_id", "translate_answer", "usage_of"]

Json = dict[str, Any]

_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_id() -> str:
    """An identifier such as a message has."""
    return f"msg_{secrets.token_hex(12)}"


def tool_id() -> str:
    """An identifier such as a call of a tool has."""
    return f"toolu_{secrets.token_hex(12)}"


def stop_reason(choice: Mapping[str, Any], *, called: bool) -> tuple[str, str | None]:
    """Why the model stopped, and the stop sequence that made it, where the engine tells (vLLM's ``stop_reason``)."""
    stopped_by = choice.get("stop_reason")
    finish = choice.get("finish_reason")
    if finish == "stop" and isinstance(stopped_by, str):
        return "stop_sequence", stopped_by
    if finish == "stop" and called:
        return "tool_use", None
    return _REASONS.get(str(finish), "end_turn"), None


def usage_of(usage: object) -> Json:
    """Counts of tokens; what came from the engine's cache is apart, as Anthropic has it."""
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    prompt = _count(counts.get("prompt_tokens"))
    cached = min(cached, prompt)
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(counts.get("completion_tokens")),
    }


def translate_answer(content: bytes, model: str) -> bytes:
    """The message that a chat completion amounts to. ``model`` is the name the client used.

    Raises:
        UpstreamError: the engine's answer is no chat completion.
    """
    try:
        answer = orjson.loads(content)
        choice = answer["choices"][0]
        message = choice["message"]
        blocks = _blocks(message, cut=choice.get("finish_reason") == "length")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise UpstreamError(f"the engine's answer is no chat completion: {type(exc).__name__}: {exc}") from exc
    called = any(block["type"] == "tool_use" for block in blocks)
    reason, sequence = stop_reason(choice, called=called)
    return orjson.dumps(
        {
            "id": message_id(),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_of(answer.get("usage")),
        }
    )


def _blocks(message: Json, *, cut: bool) -> list[Json]:
    """The parts of the answer. Where it was ``cut``, a call that is not whole is left out, as what it asks is not known."""
    blocks: list[Json] = []
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if thoughts:
        blocks.append({"type": "thinking", "thinking": str(thoughts), "signature": ""})
    if message.get("content"):
        blocks.append({"type": "text", "text": str(message["content"])})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except ValueError:
            if cut:
                continue
            raise
        if not isinstance(arguments, dict):
            raise TypeError("arguments of a tool call are no object")
        name = function["name"]
        blocks.append({"type": "tool_use", "id": call.get("id") or tool_id(), "name": name, "input": arguments})
    return blocks


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
