"""The response object (OpenAI API reference, "The Response object"), with every field the official clients know."""

from __future__ import annotations

from typing import Any

from dmr_adapters.http.responses.chat import check_tools, text_format
from dmr_adapters.http.responses.request import CreateRequest

__all__ = ["logprobs_of", "new_document", "usage_of"]


def new_document(request: CreateRequest, response_id: str, created: float) -> dict[str, Any]:
    """A response that nothing is known of yet but what was asked for. ``created`` in seconds since the Unix epoch.

    Raises:
        InvalidRequestError: tools or format are malformed.
    """
    reasoning = request.reasoning
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created),
        "status": "in_progress",
        "background": bool(request.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": request.effort,
            "summary": (reasoning.summary or reasoning.generate_summary) if reasoning is not None else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": request.temperature,
        "text": {
            "format": text_format(request),
            "verbosity": (request.text.verbosity if request.text is not None else None) or "medium",
        },
        "tool_choice": request.tool_choice or "auto",
        "tools": check_tools(request),
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }


def usage_of(given: object) -> dict[str, Any] | None:
    """Counts of tokens under the names of this API; ``None`` where an engine does not give any."""
    if not isinstance(given, dict):
        return None
    read, written = _count(given, "prompt_tokens"), _count(given, "completion_tokens")
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": _detail(given, "prompt_tokens_details", "cached_tokens")},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": _detail(given, "completion_tokens_details", "reasoning_tokens")},
        "total_tokens": read + written,
    }


def _detail(given: dict[str, Any], group: str, name: str) -> int:
    inner = given.get(group)
    return _count(inner, name) if isinstance(inner, dict) else 0


def _count(given: dict[str, Any], name: str) -> int:
    value = given.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def logprobs_of(given: object) -> list[dict[str, Any]]:
    """The probabilities of tokens, as natural logarithms, of one chunk of a chat completion."""
    content = given.get("content") if isinstance(given, dict) else None
    found = []
    for entry in content if isinstance(content, list) else ():
        if (token := _token(entry)) is not None:
            others = entry.get("top_logprobs")
            top = [made for other in others if (made := _token(other))] if isinstance(others, list) else []
            found.append({**token, "top_logprobs": top})
    return found


def _token(entry: object) -> dict[str, Any] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    logprob = entry.get("logprob")
    value = float(logprob) if isinstance(logprob, float) or (isinstance(logprob, int) and abs(logprob) < 2**53) else 0.0
    return {"token": entry["token"], "bytes": list(entry["token"].encode()), "logprob": value}
